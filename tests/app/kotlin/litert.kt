// Stand-ins for LiteRT's Kotlin API, written from its documentation; outputs come from files of the test.

package com.google.ai.edge.litert

import android.content.AssetManager
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

enum class Accelerator { CPU, GPU, NPU }

class Environment

class TensorBuffer(var bytes: ByteArray) : AutoCloseable {
    fun writeFloat(data: FloatArray) {
        bytes = ByteBuffer.allocate(4 * data.size).order(ByteOrder.LITTLE_ENDIAN).also { it.asFloatBuffer().put(data) }.array()
    }
    fun writeInt8(data: ByteArray) { bytes = data }
    fun readFloat(): FloatArray =
        FloatArray(bytes.size / 4).also { ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(it) }
    fun readInt8(): ByteArray = bytes
    override fun close() {}
}

class CompiledModel private constructor() : AutoCloseable {
    class CpuOptions(val numThreads: Int? = null, val xnnPackFlags: Int? = null, val xnnPackWeightCachePath: String? = null)
    class Options(vararg val accelerators: Accelerator) {
        var cpuOptions: CpuOptions? = null
    }

    fun createInputBuffers(): List<TensorBuffer> = listOf(TensorBuffer(ByteArray(0)))
    fun createOutputBuffers(): List<TensorBuffer> = 
        File(System.getProperty("assets")).listFiles { file -> file.name.startsWith("output") && file.extension == "bin" }!!
            .map { TensorBuffer(ByteArray(0)) }

    /** Keeps the input, and gives what the test wrote as outputs. */
    fun run(inputs: List<TensorBuffer>, outputs: List<TensorBuffer>) {
        val folder = File(System.getProperty("assets"))
        File(folder, "input.bin").writeBytes(inputs[0].bytes)
        outputs.forEachIndexed { place, buffer -> buffer.bytes = File(folder, "output$place.bin").readBytes() }
    }
    override fun close() {}

    companion object {
        @JvmStatic
        fun create(assets: AssetManager, name: String, options: Options, environment: Environment? = null): CompiledModel {
            assets.open(name).close()
            checkNotNull(options.cpuOptions?.numThreads)
            return CompiledModel()
        }
    }
}

// Stand-ins for onnxruntime's Java API, written from its reference; outputs come from files of the test.

package ai.onnxruntime

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer

enum class OnnxJavaType { FLOAT, INT8, UINT8 }

interface OnnxValue : AutoCloseable {
    val value: Any
}

class OnnxTensor(private val bytes: ByteArray) : OnnxValue {
    val byteBuffer: ByteBuffer get() = ByteBuffer.wrap(bytes)
    val floatBuffer: FloatBuffer get() = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
    override val value: Any get() = bytes
    override fun close() {}

    companion object {
        @JvmStatic
        fun createTensor(environment: OrtEnvironment, data: FloatBuffer, shape: LongArray): OnnxTensor {
            val bytes = ByteBuffer.allocate(4 * data.remaining()).order(ByteOrder.LITTLE_ENDIAN)
            bytes.asFloatBuffer().put(data)
            return OnnxTensor(bytes.array())
        }

        @JvmStatic
        fun createTensor(environment: OrtEnvironment, data: ByteBuffer, shape: LongArray, type: OnnxJavaType) =
            OnnxTensor(data.array())
    }
}

class OrtSession : AutoCloseable {
    class SessionOptions {
        fun setIntraOpNumThreads(threads: Int) {}
        fun addConfigEntry(key: String, value: String) {}
    }

    class Result(private val values: List<OnnxValue>) : AutoCloseable {
        operator fun get(place: Int): OnnxValue = values[place]
        override fun close() {}
    }

    fun run(inputs: Map<String, OnnxTensor>): Result {
        val folder = File(System.getProperty("assets"))
        val (name, tensor) = inputs.entries.single()
        File(folder, "input.bin").writeBytes(tensor.byteBuffer.array())
        File(folder, "input.name").writeText(name)
        val count = folder.listFiles { file -> file.name.startsWith("output") && file.extension == "bin" }!!.size
        return Result(List(count) { OnnxTensor(File(folder, "output$it.bin").readBytes()) })
    }
    override fun close() {}
}

class OrtEnvironment {
    fun createSession(model: ByteArray, options: OrtSession.SessionOptions): OrtSession = OrtSession()

    companion object {
        @JvmStatic
        fun getEnvironment() = OrtEnvironment()
    }
}

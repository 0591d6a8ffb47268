// Stand-ins for the classes of Android that Model.kt uses, written from Android's reference.

package android.content

import java.io.File
import java.io.InputStream

class AssetManager {
    fun open(name: String): InputStream = File(System.getProperty("assets"), name).inputStream()
}

open class Context {
    val assets = AssetManager()
    val filesDir: File get() = File(System.getProperty("assets"), "files").also { it.mkdirs() }
}

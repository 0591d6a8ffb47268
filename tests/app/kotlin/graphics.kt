// Stand-ins for Android's graphics: bitmaps as arrays of ARGB, drawn by the nearest pixel.

package android.graphics

class Rect(@JvmField val left: Int, @JvmField val top: Int, @JvmField val right: Int, @JvmField val bottom: Int) {
    fun width() = right - left
    fun height() = bottom - top
}

class Paint(flags: Int = 0) {
    companion object {
        const val FILTER_BITMAP_FLAG = 2
    }
}

class Bitmap(val width: Int, val height: Int, val argb: IntArray) {
    enum class Config { ARGB_8888 }

    fun getPixels(into: IntArray, offset: Int, stride: Int, x: Int, y: Int, width: Int, height: Int) {
        for (row in 0 until height) {
            for (column in 0 until width) {
                into[offset + row * stride + column] = argb[(y + row) * this.width + x + column]
            }
        }
    }

    companion object {
        @JvmStatic
        fun createBitmap(width: Int, height: Int, config: Config) = Bitmap(width, height, IntArray(width * height))

        @JvmStatic
        fun createBitmap(from: Bitmap, x: Int, y: Int, width: Int, height: Int) =
            Bitmap(width, height, IntArray(width * height).also { from.getPixels(it, 0, width, x, y, width, height) })

        @JvmStatic
        fun createScaledBitmap(from: Bitmap, width: Int, height: Int, filter: Boolean) =
            createBitmap(width, height, Config.ARGB_8888).also {
                Canvas(it).drawBitmap(from, null, Rect(0, 0, width, height), null)
            }
    }
}

class Canvas(private val on: Bitmap) {
    fun drawBitmap(from: Bitmap, part: Rect?, to: Rect, paint: Paint?) {
        val seen = part ?: Rect(0, 0, from.width, from.height)
        for (y in 0 until to.height()) {
            for (x in 0 until to.width()) {
                val row = seen.top + y * seen.height() / to.height()
                val column = seen.left + x * seen.width() / to.width()
                on.argb[(to.top + y) * on.width + to.left + x] = from.argb[row * from.width + column]
            }
        }
    }
}

// Package jpeg decodes JPEG files for training: to the pixels of libjpeg-turbo's default settings, to the bit, so that published
// weights see what they were trained on, and on every machine the same.
//
//	var d jpeg.Decoder // one for each goroutine: it keeps its tables and samples
//	var img raster.Image
//	err := d.Decode(&img, file, jpeg.Whole)
//
// It knows what data sets hold: Huffman-coded sequential and progressive files of 8 bits (ITU-T T.81, SOF0 to SOF2), in one scan or
// several, with every sampling that libjpeg upsamples; grey, YCbCr, RGB, and Adobe's CMYK and YCCK, as RGB in Pillow's arithmetic. EXIF's
// orientation is not looked at, as Pillow does not. What is left over goes to the standard library and is counted: Decoder.Fallbacks.
//
// Unlike libjpeg, which warns, it refuses image data that is cut short, goes on after the last block, or holds coefficients that no image
// has. libjpeg also guesses at coefficients that a progressive file says never to have had; here they are zero.
//
// A sequential file goes through the decoder a row of MCUs at a time: coefficients, samples of two rows of MCUs, pixels, so that all of it
// stays in the caches. A progressive one keeps the coefficients of the whole image. Kernels are in X_generic.go, for amd64 also in
// assembly, chosen by internal/simd.
package jpeg

//go:generate go run -C _gen . ..

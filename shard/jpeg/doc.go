// Package jpeg decodes JPEG files for training: to the pixels of libjpeg-turbo's default settings, to the bit, so that published
// weights see what they were trained on, and on every machine the same.
//
//	var d jpeg.Decoder // one for each goroutine: it keeps its tables and planes
//	var img raster.Image
//	err := d.Decode(&img, file, jpeg.Whole)
package jpeg

// Package builtin embeds a small image set, 5,000 training and 1,000 test images of CIFAR-10, so that a first run needs no download.
//
// The images come from one JPEG encoder with one quality, so the 623 bytes before each one's scan (quantisation and Huffman
// tables) are the same; they are kept once, which makes 6,000 images 1.8 MB instead of 5.5. The format, all numbers little-endian:
//
//	8 bytes   "LSJPEG1\n"
//	u16, n    the common header: every byte of a JPEG file up to its scan
//	u16       number of splits, at most 256; for each: u16 length, name
//	u16       number of classes, at most 256; for each: u16 length, name
//	u32       number of images; for each: u8 split, u8 class, u16 file number, u16 length of its scan
//	...       the scans, in the same order
//	u32       CRC-32C of all that comes before
//
// Callers go through package shard (Options.Path = "builtin"); by hand:
//
//	c, err := builtin.Decode(builtin.Data())
//	jpeg := append(c.Header, c.Images[0].Scan...)
//
// _gen/main.go makes sample.bin again, byte for byte; README.md says how and names the source.
package builtin

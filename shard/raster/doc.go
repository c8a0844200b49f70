// Package raster holds 8-bit RGB images and what is done to them between decoding and the network: resizing and conversion from
// the standard library's images. Its arithmetic is fixed point throughout, so that an image has the same pixels on every machine.
package raster

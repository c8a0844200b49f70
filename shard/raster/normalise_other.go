//go:build !amd64

package raster

// row is Row without its checks.
func (n *Normaliser) row(red, green, blue []float32, src []byte, flip bool) {
	n.plainRow(red, green, blue, src, flip)
}

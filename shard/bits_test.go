package shard

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"testing"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// TestTransformBits holds every kind of transform to the bits that it had when it was first released: a run that is resumed with a later
// version must see the same pixels.
func TestTransformBits(t *testing.T) {
	img := &raster.Image{}
	for _, c := range []struct {
		kind  Kind
		train bool
		want  string
	}{
		{KindCIFAR, true, "7da7e5333c53672dbcdab1e3f6fa42310f04289fdfbbe7f64e19839c7b0e893e"},
		{KindCIFAR, false, "989db00e945587d7dc1c7dc7a298ebeeb64c89299c18741cef1652a0840ac891"},
		{KindScale, true, "de6884f83f532aa5543b94cff078c1d80f611e7025893890e173d463d6fd957a"},
		{KindScale, false, "f1d6b9f57e07ee6d4ed0fde796b43c39c1c934d0311381c5a3ff0a72cf39a00b"},
		{KindResizedCrop, true, "df0497b1592c061ed1b4fed872da9d323a7cc3a2552aa042851fa633e5cd2a69"},
	} {
		tr := ImageNetTransform(c.train)
		tr.Kind, tr.Pad, tr.Resolution = c.kind, 4, 64
		h := sha256.New()
		for k, size := range [][2]int{{64, 64}, {500, 375}, {90, 333}, {31, 40}, {640, 70}} {
			img = pattern(size[0], size[1])
			for n := range 5 {
				if err := binary.Write(h, binary.LittleEndian, apply(tr, img, NewDraw(7, uint64(k), n))); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != c.want {
			t.Errorf("%v, train %v: bits hash to %s, want %s", c.kind, c.train, got, c.want)
		}
	}
}

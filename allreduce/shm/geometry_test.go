package shm

import (
	"slices"
	"testing"
)

func TestOfferSurvivesTheWire(t *testing.T) {
	o := Offer{geometry: Geometry{Slots: 3, SlotBytes: 128}, pid: 1 << 21, file: 7, lentBell: 8, freeBell: 9, token: newToken()}
	got, err := DecodeOffer(o.Encode())
	if err != nil || got != o {
		t.Fatalf("got %+v, %v, want %+v", got, err, o)
	}
}

func TestDecodeOfferRefuses(t *testing.T) {
	good := Offer{geometry: Default(), token: newToken()}.Encode()
	with := func(at int, v byte) []byte {
		b := slices.Clone(good)
		b[at] = v
		return b
	}
	for what, b := range map[string][]byte{
		"nothing":          nil,
		"too short":        good[:len(good)-1],
		"too long":         append(slices.Clone(good), 0),
		"another magic":    with(0, 'X'),
		"no slots":         with(20, 0),
		"too many slots":   with(22, 1),
		"an uneven slot":   with(24, 1),
		"a gigantic slot":  with(27, 1),
		"too large in all": Offer{geometry: Geometry{Slots: maxSlots, SlotBytes: maxSlotBytes}}.Encode(),
	} {
		if _, err := DecodeOffer(b); err == nil {
			t.Errorf("accepted %s", what)
		}
	}
}

// FuzzDecodeOffer holds that whatever a peer offers, what is accepted can be mapped.
func FuzzDecodeOffer(f *testing.F) {
	f.Add(Offer{geometry: Default()}.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := DecodeOffer(b)
		if err != nil {
			return
		}
		if size := o.geometry.size(); size <= 0 || size > maxRegion+1<<20 {
			t.Errorf("a region of %d bytes was accepted", size)
		}
		if !slices.Equal(o.Encode(), b) {
			t.Error("two encodings of one offer")
		}
	})
}

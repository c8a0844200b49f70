package ringgrpc

import (
	"testing"
	"time"
)

// imagined is a link and a coder as they might be: bytes a second and a ratio.
type imagined struct {
	link, coder, ratio float64
	overhead           float64 // of coding, on what the link carries
	toll               float64 // of coding, on the ring's pace
}

func (i imagined) rate(on bool) float64 {
	if !on {
		return i.link
	}
	return i.link / i.ratio * (1 - i.overhead)
}

// run lets n windows pass; it returns how many were coded and how often coding
// started or stopped for good.
func (i imagined) run(c *choice, n int) (on, settled int) {
	for range n {
		c.speed(i.coder, i.ratio)
		if c.on {
			on++
		}
		span := time.Second
		if c.on {
			span += time.Duration(i.toll * 1e9)
		}
		if c.next(window{values: int64(i.rate(c.on)), busy: time.Second, span: span}) {
			settled++
		}
	}
	return on, settled
}

func TestChoice(t *testing.T) {
	for _, c := range []struct {
		name    string
		on      bool
		between imagined
	}{
		{"1 Gbit/s", true, imagined{link: 119e6, coder: 700e6, ratio: 0.8}},
		{"a gain of 1.07 is not tried", false, imagined{link: 119e6, coder: 700e6, ratio: 0.93}},
		{"nothing to shorten", false, imagined{link: 119e6, coder: 700e6, ratio: 1}},
		{"10 Gbit/s", false, imagined{link: 1.2e9, coder: 700e6, ratio: 0.7}},
		{"a coder that just keeps up", true, imagined{link: 500e6, coder: 650e6, ratio: 0.7}},
		{"predicted, but not found", false, imagined{link: 119e6, coder: 700e6, ratio: 0.8, overhead: 0.2}},
		{"faster, but the cores are wanted elsewhere", false, imagined{link: 300e6, coder: 700e6, ratio: 0.8, toll: 0.4}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var ch choice
			on, settled := c.between.run(&ch, 2000)
			if c.on && (on < 1860 || settled != 1) {
				t.Errorf("coded in %d of 2000 windows, settled %d times; want nearly all, and once", on, settled)
			}
			if !c.on && (on > 60 || settled != 0) {
				t.Errorf("coded in %d of 2000 windows, settled %d times; want hardly any, and never", on, settled)
			}
		})
	}
}

func TestChoiceFollowsTheLink(t *testing.T) {
	slow, fast := imagined{link: 119e6, coder: 700e6, ratio: 0.8}, imagined{link: 2e9, coder: 700e6, ratio: 0.8}
	var ch choice
	for i, phase := range []struct {
		imagined
		on bool
	}{{fast, false}, {slow, true}, {fast, false}, {slow, true}} {
		if _, settled := phase.run(&ch, 400); ch.on != phase.on || (i > 0) != (settled == 1) {
			t.Errorf("phase %d: coding is %v after 400 windows, settled %d times", i, ch.on, settled)
		}
	}
}

func TestChoiceIsNotCuriousForNothing(t *testing.T) {
	var ch choice
	if !ch.curious() {
		t.Error("knows nothing, and does not want to")
	}
	imagined{link: 2e9, coder: 700e6, ratio: 0.8}.run(&ch, 8)
	if ch.curious() {
		t.Error("a link faster than the coder: no need to measure that again and again")
	}
}

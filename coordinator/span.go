package coordinator

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Scale relates steps to epochs and to the run: what a Span needs to become a number of steps.
type Scale struct {
	StepsPerEpoch float64 // images of the training split / global batch; need not be whole
	TotalSteps    uint64  // steps of the whole run
}

// Unit is what a Span counts.
type Unit uint8

// The units of a Span.
const (
	Steps   Unit = iota // "32000"
	Epochs              // "30e"
	Percent             // "60%", of the run's steps
)

// Span is a length of training, or a point counted from its start, as people write it.
type Span struct {
	Value float64
	Unit  Unit
}

// ParseSpan reads "32000" (steps), "30e" or "0.5e" (epochs), or "60%" (of the run).
func ParseSpan(text string) (Span, error) {
	number, unit := text, Steps
	switch {
	case strings.HasSuffix(text, "e"):
		number, unit = strings.TrimSuffix(text, "e"), Epochs
	case strings.HasSuffix(text, "%"):
		number, unit = strings.TrimSuffix(text, "%"), Percent
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || !(v >= 0) || v > 1e15 {
		return Span{}, fmt.Errorf("%q is no span: write steps (32000), epochs (30e) or per cent of the run (60%%)", text)
	}
	if unit == Steps && v != math.Trunc(v) {
		return Span{}, fmt.Errorf("%q is no span: steps are whole numbers; write %se for epochs", text, number)
	}
	if unit == Percent && v > 100 {
		return Span{}, fmt.Errorf("%q is no span: it is beyond the end of the run", text)
	}
	return Span{Value: v, Unit: unit}, nil
}

// String gives the text that ParseSpan reads.
func (s Span) String() string {
	number := strconv.FormatFloat(s.Value, 'f', -1, 64)
	switch s.Unit {
	case Epochs:
		return number + "e"
	case Percent:
		return number + "%"
	}
	return number
}

// IsZero says whether the span is no steps at all.
func (s Span) IsZero() bool { return s.Value == 0 }

// Steps is the span in steps. Epochs round up, so that after "1e" every image of the first epoch has been seen; per cents round
// to the nearest step.
func (s Span) Steps(scale Scale) uint64 { return s.multiple(1, scale) }

// multiple is k spans in steps, rounded once and not k times.
func (s Span) multiple(k uint64, scale Scale) uint64 {
	v := s.Value * float64(k)
	switch s.Unit {
	case Epochs:
		// 3e at 195.3125 steps is exact in float64, but 0.1e is not: a millionth of a step is no reason for one more.
		v = math.Ceil(float64(v*scale.StepsPerEpoch) - 1e-6)
	case Percent:
		v = math.Round(v * float64(scale.TotalSteps) / 100)
	}
	return uint64(min(v, 1<<62))
}

// next is the first multiple of the span, in steps, that lies after the given step. The span must not be zero.
func (s Span) next(after uint64, scale Scale) uint64 {
	one := s.Value
	switch s.Unit {
	case Epochs:
		one *= scale.StepsPerEpoch
	case Percent:
		one *= float64(scale.TotalSteps) / 100
	}
	k := uint64(1)
	if one > 0 {
		k = max(1, uint64(max(0, float64(after)/one-1)))
	}
	for ; ; k++ {
		if at := s.multiple(k, scale); at > after {
			return at
		}
		if one <= 0 {
			return math.MaxUint64
		}
	}
}

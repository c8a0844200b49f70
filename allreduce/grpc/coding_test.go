package ringgrpc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/credentials/insecure"

	"github.com/lockstep-ml/lockstep/allreduce"
	"github.com/lockstep-ml/lockstep/allreduce/coder"
)

// newCoders makes workers of which each codes in its own way, with one lane, two, ...
func newCoders(t testing.TB, n int, withProxy bool, mode func(rank int) Coding) []*worker {
	t.Helper()
	out := make([]*worker, n)
	for i := range out {
		cfg := DefaultConfig()
		cfg.Run, cfg.Credentials, cfg.Lanes, cfg.Coding, cfg.Sharing = run, insecure.NewCredentials(), 1+i%2, mode(i), ShareNever
		out[i] = newWorkerOf(t, cfg, withProxy)
	}
	return out
}

// links are the workers' links of a generation, of all levels.
func links(workers []*worker, generation uint64) (out []*link) {
	for _, w := range workers {
		w.node.mu.Lock()
		out = append(out, w.node.members[generation].links...)
		w.node.mu.Unlock()
	}
	return out
}

// bellShaped makes values that get shorter.
func bellShaped(replicas, n int) [][]float32 {
	all := gradients(replicas, n, 11)
	rng := rand.New(rand.NewPCG(5, 6))
	for _, values := range all {
		for i := range values {
			values[i] = float32(rng.NormFloat64() * 1e-3)
		}
	}
	return all
}

func ratioOf(l *link) float64 {
	l.coding.mu.Lock()
	defer l.coding.mu.Unlock()
	return l.coding.figures().Ratio
}

func sameBits(t *testing.T, rings []*allreduce.Ring, b allreduce.Bucket, all [][]float32) {
	t.Helper()
	out, errs := reduce(t.Context(), rings, b, all)
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
		return
	}
	want := alone(t, b, all)
	for rank := range out {
		for i := range want {
			if math.Float32bits(out[rank][i]) != math.Float32bits(want[i]) {
				t.Errorf("bucket %d, rank %d, value %d: %v, want %v", b.ID, rank, i, out[rank][i], want[i])
				return
			}
		}
	}
}

func TestCodingKeepsTheBits(t *testing.T) {
	for name, mode := range map[string]func(int) Coding{
		"on":    func(int) Coding { return CodeAlways },
		"off":   func(int) Coding { return CodeNever },
		"auto":  func(int) Coding { return CodeAuto },
		"mixed": func(rank int) Coding { return []Coding{CodeAlways, CodeNever, CodeAuto, CodeAlways}[rank%4] },
	} {
		for _, size := range []int{1, 2, 3, 4} {
			t.Run(name+"/"+describe(size, 4), func(t *testing.T) {
				workers := newCoders(t, size, false, mode)
				rings := joinAll(t, workers, 1, 4, func(c *allreduce.Config) { c.SegmentBytes = 32 << 10 })
				defer closeAll(t, rings)
				var wg sync.WaitGroup // all buckets at once
				for id, n := range []int{1, 17, 1025, 70_001, 400_000} {
					for _, w := range []allreduce.Wire{16, 32} {
						b := allreduce.Bucket{Step: 1, ID: 2*id + int(w/32), Wire: w}
						wg.Go(func() { sameBits(t, rings, b, bellShaped(4, n)) })
					}
				}
				wg.Wait()
				for rank, l := range links(workers, 1) {
					ratio := ratioOf(l)
					if l.coding.mode == CodeAlways && size > 1 && !(ratio > 0 && ratio < 0.95) {
						t.Errorf("rank %d sent %.2f of the bytes: nothing was coded", rank, ratio)
					}
					if l.coding.mode == CodeNever && ratio != 0 {
						t.Errorf("rank %d coded, and was told not to", rank)
					}
				}
			})
		}
	}
}

// In two levels each link codes or not, where it does not share memory.
func TestCodingKeepsTheBitsInTwoLevels(t *testing.T) {
	const size = 6
	for _, group := range []int{2, 3} {
		for name, tweak := range map[string]func(rank int, c *Config){
			"grpc": func(rank int, c *Config) { c.Coding = []Coding{CodeAlways, CodeNever, CodeAlways, CodeAuto}[rank%4] },
			"mixed": func(rank int, c *Config) {
				c.Coding, c.Sharing = CodeAlways, []Sharing{ShareAuto, ShareAuto, ShareNever}[rank%3]
			},
		} {
			t.Run(fmt.Sprintf("%s G=%d", name, group), func(t *testing.T) {
				workers := make([]*worker, size)
				for i := range workers {
					cfg := DefaultConfig()
					cfg.Run, cfg.Credentials, cfg.Sharing = run, insecure.NewCredentials(), ShareNever
					tweak(i, &cfg)
					workers[i] = newWorkerOf(t, cfg, false)
				}
				rings := joinAll(t, workers, 1, size, grouped(group))
				defer closeAll(t, rings)
				var wg sync.WaitGroup // all buckets at once
				for id, n := range []int{1, 1025, 70_001, 200_000} {
					for _, w := range []allreduce.Wire{16, 32} {
						b := allreduce.Bucket{Step: 1, ID: 2*id + int(w/32), Wire: w}
						wg.Go(func() { sameBits(t, rings, b, bellShaped(size, n)) })
					}
				}
				wg.Wait()
				for _, l := range links(workers, 1) {
					ratio, coded := ratioOf(l), l.coding.mode == CodeAlways && !l.shared.right.Shared
					if coded && !(ratio > 0 && ratio < 0.95) || l.coding.mode != CodeAuto && !coded && ratio != 0 {
						t.Errorf("rank %d, %v level, by %v: sent %.2f of the bytes", l.rank, l.level, l.shared.right, ratio)
					}
				}
			})
		}
	}
}

// TestSwitchingMidBucket starts and stops coding at any moment.
func TestSwitchingMidBucket(t *testing.T) {
	workers := newCoders(t, 3, false, func(int) Coding { return CodeAuto })
	rings := joinAll(t, workers, 1, 3, func(c *allreduce.Config) { c.SegmentBytes = 8 << 10 })
	defer closeAll(t, rings)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for all := links(workers, 1); ; runtime.Gosched() {
			select {
			case <-done:
				return
			default:
			}
			for _, l := range all {
				l.coding.mu.Lock()
				l.coding.choice.on = !l.coding.choice.on
				l.coding.mu.Unlock()
			}
		}
	})
	all := bellShaped(3, 300_000)
	for id := range 4 {
		sameBits(t, rings, allreduce.Bucket{Step: 1, ID: id, Wire: 16}, all)
	}
	close(done)
	wg.Wait()
}

func TestKilledWhileCoding(t *testing.T) {
	workers := newCoders(t, 3, true, func(int) Coding { return CodeAlways })
	rings := joinAll(t, workers, 1, 3, func(c *allreduce.Config) { c.BeginTimeout, c.HopTimeout = time.Hour, time.Hour })
	defer closeAll(t, rings)
	spent := workers[1].proxy.after(300_000)
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-spent:
		case <-time.After(time.Minute):
			t.Error("the proxy has not seen so many bytes")
		}
		workers[1].proxy.reset()
		workers[2].proxy.reset()
	})
	_, errs := reduce(t.Context(), rings, allreduce.Bucket{Step: 5, Wire: 16}, bellShaped(3, 2_000_000))
	wg.Wait()
	for rank, err := range errs {
		var hop *allreduce.HopError
		if !errors.As(err, &hop) || hop.Step != 5 {
			t.Errorf("rank %d: %v, want a HopError of step 5", rank, err)
		}
	}
}

// codedFrame is a message of n values in coded form, as it stands on the wire.
func codedFrame(t testing.TB, n int) []byte {
	t.Helper()
	values := make([]byte, 2*n)
	rng := rand.New(rand.NewPCG(7, uint64(n)))
	for i := range n {
		binary.LittleEndian.PutUint16(values[2*i:], uint16(int16(rng.NormFloat64()*50)))
	}
	var c coder.Coder
	b := allreduce.NewBuffer(2 * n)
	left, ok := c.Encode(b.Message().Payload[0], [][]byte{values})
	if !ok {
		t.Fatal("no shorter")
	}
	b.Truncate(left)
	m := b.Message()
	m.Header = allreduce.Header{Key: allreduce.Key{Step: 3, Phase: allreduce.PhaseAllGather}, Wire: allreduce.Wire16, Length: uint32(2 * n)}
	out, err := codec{}.Marshal(&frame{message: m, coded: true})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Free()
	return out.Materialize()
}

// What came coded is passed on as it came by a link that codes, and as values by
// one that does not; all its memory comes back either way.
func TestCodedMessagesArePassedOn(t *testing.T) {
	for _, n := range []int{64, 5000, 200_000} {
		for _, mode := range []Coding{CodeAlways, CodeNever} {
			sent := codedFrame(t, n)
			pool := &counted{}
			in := cut(sent, 16384, pool)
			f, err := unmarshal(in)
			if err != nil {
				t.Fatal(err)
			}
			values := slices.Concat(f.message.Payload...)
			if len(values) != 2*n {
				t.Fatalf("%d bytes of values, want %d", len(values), 2*n)
			}
			ln := &lane{link: &link{coding: coding{mode: mode}}}
			ln.pack(f.message)
			out, err := codec{}.Marshal(&ln.frame)
			if err != nil {
				t.Fatal(err)
			}
			on := out.Materialize()
			if (mode == CodeAlways) != bytes.Equal(on, sent) {
				t.Errorf("%d values, coding %d: what came is sent on as it came: %v", n, mode, bytes.Equal(on, sent))
			}
			got, err := unmarshal(cut(on, 16384, &counted{}))
			if err != nil || !bytes.Equal(slices.Concat(got.message.Payload...), values) {
				t.Errorf("%d values changed on the way: %v", n, err)
			}
			out.Free()
			if pool.back != len(in) || ln.coding.underway != 0 {
				t.Errorf("%d of %d pieces came back, %d messages are under way", pool.back, len(in), ln.coding.underway)
			}
		}
	}
}

func TestDamagedCodedMessages(t *testing.T) {
	whole := codedFrame(t, 5000)
	damage := func(f func(b []byte) []byte) []byte { return f(slices.Clone(whole)) }
	for name, b := range map[string][]byte{
		"another form":      damage(func(b []byte) []byte { b[formAt] = 2; return b }),
		"no form":           damage(func(b []byte) []byte { b[formAt] = 0; return b }),
		"short":             whole[:len(whole)-1],
		"a wrong length":    damage(func(b []byte) []byte { b[lengthAt]++; return b }),
		"not 16 bits":       damage(func(b []byte) []byte { b[5] = 32; return b }),
		"exponents":         damage(func(b []byte) []byte { b[4] = byte(allreduce.PhaseExponents); return b }),
		"outer exponents":   damage(func(b []byte) []byte { b[4] = byte(allreduce.PhaseOuterExponents); return b }),
		"more values":       damage(func(b []byte) []byte { b[64] += 2; return b }),
		"an unknown kind":   damage(func(b []byte) []byte { b[headSize] = 77; return b }),
		"behind the length": damage(func(b []byte) []byte { b[lengthAt+4] = 1; return b }),
	} {
		pool := &counted{}
		in := cut(b, 16384, pool)
		if _, err := unmarshal(in); err == nil {
			t.Errorf("%s: taken", name)
		}
		if pool.back != len(in) {
			t.Errorf("%s: %d of %d pieces came back", name, pool.back, len(in))
		}
	}
}

// A link's time counts while something is under way, and only then.
func TestCodingMeasuresWhileBusy(t *testing.T) {
	var told []CodingFigures
	c := coding{report: func(f CodingFigures) { told = append(told, f) }}
	now := time.Unix(1000, 0)
	c.encoded(700, 560, time.Microsecond)
	c.decoded(900, time.Microsecond)
	// A link of 100 MB/s, at which coded messages take 0.8 of the time.
	send := func() (code bool) {
		code, _ = c.begin(now)
		took := 10 * time.Millisecond
		if code {
			took = 8 * time.Millisecond
		}
		now = now.Add(took)
		c.written(now, 1_000_000)
		now = now.Add(time.Hour) // idle
		return code
	}
	coded := 0
	for range 20 * windowMessages {
		if send() {
			coded++
		}
	}
	if f := c.figures(); !f.On || math.Abs(f.Plain/100e6-1) > 1e-6 || math.Abs(f.Coded/125e6-1) > 1e-6 || f.Coder != 700e6 || f.Ratio != 0.8 {
		t.Errorf("the figures are %+v", f)
	}
	if coded < 17*windowMessages || len(told) != 1 || !told[0].On {
		t.Errorf("%d messages coded; told of %+v, want one start", coded, told)
	}
}

// What sockets' buffers swallow at once still takes the link's time.
func TestCodingCountsTheSocketsTime(t *testing.T) {
	var busy time.Duration
	c := coding{sockets: []socket{{busy: func() time.Duration { return busy / 2 }}, {busy: func() time.Duration { return busy }}}}
	c.encoded(700, 560, time.Microsecond)
	c.decoded(900, time.Microsecond)
	now := time.Unix(1000, 0)
	for range 20 * windowMessages {
		took := 10 * time.Millisecond
		if code, _ := c.begin(now); code {
			took = 8 * time.Millisecond
		}
		c.written(now.Add(time.Microsecond), 1_000_000)
		now = now.Add(took)
		busy += took
	}
	if f := c.figures(); !f.On || math.Abs(f.Plain/100e6-1) > 0.02 || math.Abs(f.Coded/125e6-1) > 0.02 {
		t.Errorf("the figures are %+v", f)
	}
}

// A link that is faster than the coder is not slowed down by measuring it.
func TestSamplesAreRare(t *testing.T) {
	for _, c := range []struct {
		coder   float64
		samples int
	}{{700e6, 64}, {50e6, 2}} {
		m := coding{choice: choice{plain: rates{link: 100e6}, coder: c.coder, ratio: 1}}
		samples := 0
		for range 64 * sampleEvery {
			if _, sample := m.begin(time.Unix(0, 0)); sample {
				samples++
			}
		}
		if samples != c.samples {
			t.Errorf("a coder of %.0f MB/s: %d samples, want %d", c.coder/1e6, samples, c.samples)
		}
	}
}

func TestParseCoding(t *testing.T) {
	for text, want := range map[string]Coding{"auto": CodeAuto, "off": CodeNever, "on": CodeAlways} {
		if got, err := ParseCoding(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	if _, err := ParseCoding("zip"); err == nil {
		t.Error("took zip")
	}
}

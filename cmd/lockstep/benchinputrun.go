package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lockstep-ml/lockstep/internal/simd"
	"github.com/lockstep-ml/lockstep/shard"
	"github.com/lockstep-ml/lockstep/shard/raster"
)

const (
	// checkedImages are enough to meet every sampling and shape that is common, and take the generic kernels a second.
	checkedImages = 32
	// familyPatience is for a process of another family, which opens the data set anew.
	familyPatience = 5 * time.Minute
)

// inputBench measures one data set.
type inputBench struct {
	o  *inputOptions
	ds *shard.Dataset
	t  shard.Transform
}

// An inputWorker is what one thread owns.
type inputWorker struct {
	b   *inputBench
	ctx context.Context
	aug *shard.Augmenter
	dec shard.Decoder
	img raster.Image
	dst []float32
	sum [sha256.Size]byte
}

func (b *inputBench) workers(ctx context.Context, n int) []*inputWorker {
	out := make([]*inputWorker, n)
	for i := range out {
		out[i] = &inputWorker{b: b, ctx: ctx, aug: shard.NewAugmenter(b.t), dst: make([]float32, b.t.Values())}
	}
	return out
}

// render makes one image, of epoch 0 with seed 1.
func (w *inputWorker) render(i int) error {
	return w.b.ds.Render(w.ctx, &w.dec, w.aug, w.dst, i, shard.NewDraw(1, 0, i))
}

// decode decodes a whole one.
func (w *inputWorker) decode(i int) error { return w.b.ds.Load(w.ctx, &w.dec, &w.img, i) }

// digest hashes the bits of an image that was made, or decoded.
func (w *inputWorker) digest() {
	h := sha256.New()
	var word [4]byte
	for _, v := range w.dst {
		bits := math.Float32bits(v)
		word = [4]byte{byte(bits), byte(bits >> 8), byte(bits >> 16), byte(bits >> 24)}
		h.Write(word[:])
	}
	h.Write(w.img.Pix)
	h.Sum(w.sum[:0])
}

// each has workers make n images between them, in any order. It gives how long that took.
func (b *inputBench) each(ws []*inputWorker, n int, do func(w *inputWorker, k int) error) (time.Duration, error) {
	var next atomic.Int64
	var group sync.WaitGroup
	errs := make([]error, len(ws))
	begun := time.Now()
	for i, w := range ws {
		group.Go(func() {
			for errs[i] == nil {
				k := int(next.Add(1)) - 1
				if k >= n {
					return
				}
				errs[i] = do(w, k)
			}
		})
	}
	group.Wait() //bounded: every worker ends behind the last image
	return time.Since(begun), errors.Join(errs...)
}

// sum is the hex SHA-256 of the first images' sums.
func (b *inputBench) sum(ctx context.Context, threads int) (string, error) {
	n := min(checkedImages, b.ds.Len())
	sums := make([][sha256.Size]byte, n)
	_, err := b.each(b.workers(ctx, threads), n, func(w *inputWorker, k int) error {
		err := w.render(k)
		if err == nil && b.o.decodeOnly {
			err = w.decode(k)
		}
		w.digest()
		sums[k] = w.sum
		return err
	})
	h := sha256.New()
	for _, s := range sums {
		h.Write(s[:])
	}
	return hex.EncodeToString(h.Sum(nil)), err
}

// A maker makes the first images in one of the ways that there are, and gives their sum.
type maker struct {
	how string
	sum func() (string, error)
}

// check compares the bits of one thread, of all threads, and of every family of kernels.
func (b *inputBench) check(ctx context.Context) (string, error) {
	used, err := simd.Choose()
	if err != nil {
		return "", err
	}
	makers := []maker{
		{fmt.Sprintf("one thread with %v kernels", used), func() (string, error) { return b.sum(ctx, 1) }},
		{fmt.Sprintf("%d threads", b.o.threads), func() (string, error) { return b.sum(ctx, b.o.threads) }},
	}
	for _, f := range simd.Offered() {
		if f != used {
			makers = append(makers, maker{fmt.Sprintf("%v kernels", f), func() (string, error) { return b.sumOf(ctx, f) }})
		}
	}
	return agree(makers)
}

// agree gives the sum that all makers come to.
func agree(makers []maker) (sum string, err error) {
	for i, m := range makers {
		got, err := m.sum()
		if err != nil {
			return "", fmt.Errorf("the check with %s: %w", m.how, err)
		}
		if i > 0 && got != sum {
			return "", fmt.Errorf("%s: other bits (%.12s) than %s (%.12s): not timing a wrong result; %s=generic runs the kernels that define what is right",
				m.how, got, makers[0].how, sum, simd.Variable)
		}
		sum = got
	}
	return sum, nil
}

// sumOf has another process compute the sum: a process chooses its kernels once.
func (b *inputBench) sumOf(ctx context.Context, f simd.Family) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, familyPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, "bench", "input", "--sum-only", "--data", b.o.data, "--split", b.o.split, "--transform", b.o.transform,
		"--resolution", strconv.Itoa(b.o.resolution), "--decode-only="+strconv.FormatBool(b.o.decodeOnly))
	cmd.Env = append(os.Environ(), simd.Variable+"="+f.String())
	cmd.SysProcAttr = childAttributes()
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	return strings.TrimSpace(string(out)), err
}

// measure times the rounds.
func (b *inputBench) measure(ctx context.Context) (*inputReport, error) {
	n := min(b.o.images, b.ds.Len())
	pick := make([]int, n)
	bytes := 0
	for k := range pick {
		pick[k] = int(int64(k) * int64(b.ds.Len()) / int64(n))
		file, err := b.ds.Read(ctx, pick[k], nil)
		if err != nil {
			return nil, err
		}
		bytes += len(file)
	}
	r := &inputReport{Transform: b.o.transform, Resolution: b.o.resolution, Threads: b.o.threads, Images: n, Rounds: b.o.rounds, Fallbacks: map[string]int{}}
	rates := func(p pace) (images, mb, cpu float64) {
		seconds := p.median.Seconds()
		return float64(n) / seconds, float64(bytes) / 1e6 / seconds, p.cpu.Seconds() * 1e3 / float64(n*b.o.rounds)
	}
	decoded, err := b.rounds(ctx, pick, nil, (*inputWorker).decode)
	if err != nil {
		return nil, err
	}
	r.DecodeImagesPerSecond, r.DecodeMBPerSecond, r.DecodeCPU = rates(decoded)
	if b.o.decodeOnly {
		r.ImagesPerSecond, r.MBPerSecond, r.CPU = r.DecodeImagesPerSecond, r.DecodeMBPerSecond, r.DecodeCPU
		return r, b.fallbacks(ctx, r, pick)
	}
	made, err := b.rounds(ctx, pick, func(w *inputWorker) time.Duration { return w.dec.Took() }, (*inputWorker).render)
	if err != nil {
		return nil, err
	}
	r.ImagesPerSecond, r.MBPerSecond, r.CPU = rates(made)
	r.DecodeShare = made.share
	return r, b.fallbacks(ctx, r, pick)
}

// A pace is what rounds came to.
type pace struct {
	median time.Duration // of a round
	cpu    time.Duration // of this process, in all rounds
	share  float64       // of the workers' time, what was counted
}

// rounds times rounds, and counts in each worker what part says.
func (b *inputBench) rounds(ctx context.Context, pick []int, part func(*inputWorker) time.Duration, do func(*inputWorker, int) error) (p pace, err error) {
	ws := b.workers(ctx, b.o.threads)
	parts := func() (sum time.Duration) {
		for _, w := range ws {
			if part != nil {
				sum += part(w)
			}
		}
		return sum
	}
	var took []time.Duration
	var all, counted, used time.Duration
	for round := range b.o.rounds + 1 {
		if err := ctx.Err(); err != nil {
			return p, err
		}
		d, err := b.each(ws, len(pick), func(w *inputWorker, k int) error { return do(w, pick[k]) })
		if err != nil {
			return p, err
		}
		if round == 0 { // scratch memory grows
			counted, used = parts(), processorTime()
			continue
		}
		took, all = append(took, d), all+d
	}
	slices.Sort(took)
	return pace{median: took[len(took)/2], cpu: processorTime() - used, share: (parts() - counted).Seconds() / all.Seconds() / float64(len(ws))}, nil
}

// processorTime is what this process has used so far, user and system.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic("lockstep: getrusage of this very process failed: " + err.Error())
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// fallbacks decodes every image once more and counts.
func (b *inputBench) fallbacks(ctx context.Context, r *inputReport, pick []int) error {
	w := b.workers(ctx, 1)[0]
	for _, i := range pick {
		if err := w.decode(i); err != nil {
			return err
		}
	}
	for kind, n := range w.dec.Fallbacks() {
		r.Fallbacks[kind] = n
	}
	return nil
}

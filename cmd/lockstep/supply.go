package main

import (
	"fmt"
	"math"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/lockstep-ml/lockstep/shard"
	"github.com/lockstep-ml/lockstep/shard/source"
)

// supplyFlags are how one worker gets its images; none of it changes the trained bits.
type supplyFlags struct {
	decoders, fetchers int
	memory             byteSize
	stall              time.Duration
}

func (s *supplyFlags) add(f *pflag.FlagSet) {
	s.memory, s.stall = shard.DefaultMemory, shard.DefaultStall
	f.IntVar(&s.decoders, "decoders", 0, "goroutines of a worker that decode and augment; 0: by the number of cores")
	f.IntVar(&s.fetchers, "fetchers", 0, "files or parts of files that a worker reads at once; 0: 4 of this machine, 32 over a network")
	f.Var(&s.memory, "data-memory", "what a worker's images, decoded and not, may take while they wait; one step's are made in any case")
	f.DurationVar(&s.stall, "data-timeout", s.stall, "how long a read of data may take before it ends the step")
}

// passOn gives the flags for a worker process.
func (s *supplyFlags) passOn(threads int) []string {
	decoders := s.decoders
	if decoders == 0 {
		decoders = defaultDecoders(threads)
	}
	return []string{"--decoders", strconv.Itoa(decoders), "--fetchers", strconv.Itoa(s.fetchers), "--data-memory", s.memory.String(), "--data-timeout", s.stall.String()}
}

// defaultDecoders shares a worker's cores out: an image costs the engine some twenty times what it costs a decoder, and decoders beyond
// the need only get into the way of the engine's threads, all of which wait for the last.
func defaultDecoders(threads int) int {
	if threads == 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	return max(1, threads/4)
}

// supply gives what a loader needs. The loader has three quarters of the memory, for evaluations run while its batches wait.
func (s *supplyFlags) supply(threads int) (train, test shard.Supply) {
	train = shard.Supply{Decoders: s.decoders, Fetchers: s.fetchers, Memory: int64(s.memory) / 4 * 3, Stall: s.stall}
	if train.Decoders == 0 {
		train.Decoders = defaultDecoders(threads)
	}
	test = train
	test.Memory = int64(s.memory) / 4
	return train, test
}

// sourceFlags are how one machine reads data that lies on another.
type sourceFlags struct {
	cache string
	size  byteSize
}

func (s *sourceFlags) add(f *pflag.FlagSet) {
	s.size = byteSize(source.DefaultOptions().CacheSize)
	f.StringVar(&s.cache, "data-cache", "", "folder that keeps pieces of data from URLs; several processes may share it; empty: none are kept")
	f.Var(&s.size, "data-cache-size", "what that folder may hold")
}

func (s *sourceFlags) passOn() []string {
	if s.cache == "" {
		return nil
	}
	return []string{"--data-cache", s.cache, "--data-cache-size", s.size.String()}
}

// options gives what the data set needs; warn is told of trouble that passes.
func (s *sourceFlags) options(warn func(error)) source.Options {
	o := source.Options{Cache: s.cache, Warn: warn}
	if s.cache != "" {
		o.CacheSize = int64(s.size)
	}
	return o
}

// byteSize is a flag's value of bytes: a number, with KiB, MiB or GiB behind it, or KB, MB, GB.
type byteSize int64

// byteUnits in the order in which they are tried.
var byteUnits = []struct {
	name  string
	bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"B", 1}}

func (b *byteSize) Type() string { return "size" }

// String gives a text that Set reads back exactly.
func (b *byteSize) String() string {
	for _, u := range byteUnits[:3] {
		if *b != 0 && int64(*b)%u.bytes == 0 {
			return strconv.FormatInt(int64(*b)/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(*b), 10)
}

// Set takes a positive size.
func (b *byteSize) Set(text string) error {
	number, unit := text, int64(1)
	for _, u := range byteUnits {
		if n, ok := strings.CutSuffix(strings.ToLower(text), strings.ToLower(u.name)); ok {
			number, unit = strings.TrimSpace(n), u.bytes
			break
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || !(v*float64(unit) >= 1) || v*float64(unit) >= math.MaxInt64 {
		return fmt.Errorf("%q is no size: want a number of bytes, or one with KiB, MiB or GiB, like 512MiB", text)
	}
	*b = byteSize(v * float64(unit))
	return nil
}

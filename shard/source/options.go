package source

import (
	"errors"
	"fmt"
	"time"
)

// Options says how files are read that do not lie on this machine. A field that is zero has the value of DefaultOptions.
type Options struct {
	// Attempts is how often a request is made before its error counts.
	Attempts int
	// AttemptTimeout bounds one attempt, from the connection to the last byte. An attempt moves PartSize bytes at most.
	AttemptTimeout time.Duration
	// Stall is how long an attempt may go without a byte.
	Stall time.Duration
	// BackoffMin and BackoffMax bound the pause before the second and the later attempts, which doubles, and of which a random part
	// is taken.
	BackoffMin, BackoffMax time.Duration
	// Requests bounds the requests under way at a time, over all files of an Opener.
	Requests int
	// PartSize is the most that one request asks for, in bytes.
	PartSize int64
	// PlainHTTP allows servers other than this machine to be spoken to without TLS. Who can reach the wire can then change the data.
	PlainHTTP bool

	// Cache is a folder for pieces of remote files; empty means none. Several processes may share it.
	Cache string
	// CacheSize bounds the folder, in bytes.
	CacheSize int64

	// Warn is told of what does not make a read fail: attempts that are made again, pieces that could not be cached. It may be called
	// concurrently, and must return soon. Nil means that nobody wants to know.
	Warn func(error)
}

// DefaultOptions suit a bucket on the same continent.
func DefaultOptions() Options {
	return Options{
		// With back-off up to 10 s, six attempts ride out some half a minute of trouble. More would hide a dead server for minutes.
		Attempts: 6,
		// PartSize at 70 kB/s. A link slower than that cannot feed training.
		AttemptTimeout: 2 * time.Minute,
		// S3 now and then takes seconds for a first byte; longer than this it is better asked again.
		Stall:      15 * time.Second,
		BackoffMin: 200 * time.Millisecond,
		BackoffMax: 10 * time.Second,
		// Enough to fill a link of 10 Gbit/s with images of 100 kB at 3 ms each; a server takes more as an attack.
		Requests:  32,
		PartSize:  8 << 20,
		CacheSize: 64 << 30,
	}
}

// Validate reports every fault of the options at once.
func (o Options) Validate() error {
	var errs []error
	check := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf("source: "+format, args...))
		}
	}
	check(o.Attempts < 0 || o.Attempts > 100, "%d attempts, want 0 (default) to 100", o.Attempts)
	check(o.AttemptTimeout < 0, "attempt timeout of %v is negative", o.AttemptTimeout)
	check(o.Stall < 0, "stall time of %v is negative", o.Stall)
	check(o.BackoffMin < 0 || o.BackoffMax < 0, "back-off of %v to %v is negative", o.BackoffMin, o.BackoffMax)
	check(o.BackoffMax > 0 && o.BackoffMin > o.BackoffMax, "back-off from %v to %v: the first is longer", o.BackoffMin, o.BackoffMax)
	check(o.Requests < 0 || o.Requests > 4096, "%d requests at a time, want 0 (default) to 4096", o.Requests)
	check(o.PartSize < 0 || o.PartSize > 1<<30, "requests for %d bytes, want 0 (default) to 1 GiB", o.PartSize)
	check(o.CacheSize < 0, "cache size of %d bytes is negative", o.CacheSize)
	check(o.CacheSize > 0 && o.CacheSize < minCacheSize, "cache size of %d bytes, want at least %d MiB", o.CacheSize, minCacheSize>>20)
	return errors.Join(errs...)
}

// withDefaults fills in what is zero.
func (o Options) withDefaults() Options {
	d := DefaultOptions()
	setDefault(&o.Attempts, d.Attempts)
	setDefault(&o.AttemptTimeout, d.AttemptTimeout)
	setDefault(&o.Stall, d.Stall)
	setDefault(&o.BackoffMin, min(d.BackoffMin, orMax(o.BackoffMax)))
	setDefault(&o.BackoffMax, max(d.BackoffMax, o.BackoffMin))
	setDefault(&o.Requests, d.Requests)
	setDefault(&o.PartSize, d.PartSize)
	setDefault(&o.CacheSize, d.CacheSize)
	if o.Warn == nil {
		o.Warn = func(error) {}
	}
	return o
}

func setDefault[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}

// orMax gives a bound that is unset the value that bounds nothing.
func orMax(d time.Duration) time.Duration {
	if d == 0 {
		return 1<<63 - 1
	}
	return d
}

package source

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"
)

// An Opener opens files that share connections, the bound on requests and the cache. Its methods may run concurrently. It starts no
// goroutines that outlive a call.
type Opener struct {
	o     Options
	http  *http.Client
	slots chan struct{} // one for each request under way
	cache *cache        // nil: none
	// pause waits for a time, or until ctx ends. Tests put their own in its place.
	pause func(ctx context.Context, d time.Duration) error

	mu      sync.Mutex
	buckets map[string]bucket // by scheme, name and parameters
	closed  bool
}

// NewOpener checks the options and makes the folder of the cache. It reaches for nothing remote.
func NewOpener(o Options) (*Opener, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	p := &Opener{o: o, slots: make(chan struct{}, o.Requests), pause: pause, buckets: map[string]bucket{}}
	p.http = newClient(o)
	if o.Cache != "" {
		c, err := newCache(o.Cache, o.CacheSize, o.Warn)
		if err != nil {
			return nil, err
		}
		p.cache = c
	}
	return p, nil
}

// Open opens the file at a location. What is not there matches fs.ErrNotExist.
func (p *Opener) Open(ctx context.Context, location string) (File, error) {
	if err := p.usable(); err != nil {
		return nil, err
	}
	s := scheme(location)
	switch s {
	case "", "file":
		return openLocal(location)
	case "http", "https", "s3", "gs":
		return p.openRemote(ctx, location, s)
	}
	return nil, fmt.Errorf("%s: scheme %q is unknown: a location is a path or a URL of %v", Clean(location), s, schemes)
}

// openRemote asks what a file is, once, before its bytes are read.
func (p *Opener) openRemote(ctx context.Context, location, scheme string) (File, error) {
	obj, err := p.object(ctx, location, scheme)
	if err != nil {
		return nil, err
	}
	var a attributes
	err = p.attempts(ctx, func(ctx context.Context, alive func()) error {
		var err error
		a, err = obj.stat(ctx)
		return err
	})
	if err != nil {
		return nil, openError(location, err)
	}
	return p.file(location, obj, a), nil
}

// OpenEntry opens a file that a listing found, without asking for anything before the first read.
func (p *Opener) OpenEntry(ctx context.Context, e Entry) (File, error) {
	if err := p.usable(); err != nil {
		return nil, err
	}
	s := scheme(e.Location)
	if !Remote(e.Location) {
		return openKnown(e)
	}
	if e.Version == "" {
		return p.openRemote(ctx, e.Location, s)
	}
	obj, err := p.object(ctx, e.Location, s)
	if err != nil {
		return nil, err
	}
	return p.file(e.Location, obj, attributes{size: e.Size, version: e.Version}), nil
}

// List calls visit for every file below a folder or a bucket's prefix, in no order that is promised. HTTP has no listing:
// ErrNoListing.
func (p *Opener) List(ctx context.Context, location string, visit func(Entry) error) error {
	if err := p.usable(); err != nil {
		return err
	}
	switch s := scheme(location); s {
	case "", "file":
		return listLocal(ctx, location, visit)
	case "s3", "gs":
		return p.listBucket(ctx, location, s, visit)
	case "http", "https":
		return fmt.Errorf("%s: a web server %w: name the files, as in %s", Clean(location), ErrNoListing, strings.TrimRight(Clean(location), "/")+"/train-{000000..000146}.tar")
	default:
		return fmt.Errorf("%s: scheme %q is unknown: a location is a path or a URL of %v", Clean(location), s, schemes)
	}
}

// object finds the client that reads a location.
func (p *Opener) object(ctx context.Context, location, scheme string) (object, error) {
	if scheme == "http" || scheme == "https" {
		return newWebObject(p.http, location)
	}
	b, key, err := p.bucket(ctx, location, scheme)
	if err != nil {
		return nil, err
	}
	if key == "" {
		return nil, fmt.Errorf("%s: names a bucket, want %s://BUCKET/KEY", Clean(location), scheme)
	}
	return b.object(key), nil
}

// file puts the cache over a remote file, where there is one and the version is known.
func (p *Opener) file(location string, obj object, a attributes) File {
	f := &remote{opener: p, location: location, obj: obj, size: a.size, version: a.version}
	obj.expect(a)
	if p.cache == nil || a.version == "" {
		return f
	}
	return &cached{remote: f, cache: p.cache, key: cacheKey(location, a)}
}

func (p *Opener) usable() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return fmt.Errorf("source: opener: %w", ErrClosed)
	}
	return nil
}

// Close drops idle connections. It may be called twice; files that are open must be closed before.
func (p *Opener) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	var errs []error
	for _, b := range p.buckets { // any order: all are closed
		errs = append(errs, b.close())
	}
	p.http.CloseIdleConnections()
	return errors.Join(errs...)
}

// attempts makes a request, and makes it again while its failure is one that may pass. do calls alive for every byte that comes.
func (p *Opener) attempts(ctx context.Context, do func(ctx context.Context, alive func()) error) error {
	var err error
	for n := 1; ; n++ {
		if err = p.attempt(ctx, do); err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !passing(err) || n >= p.o.Attempts {
			return &triedError{err, n}
		}
		p.o.Warn(fmt.Errorf("attempt %d of %d: %w", n, p.o.Attempts, err))
		if err := p.pause(ctx, p.backoff(n, err)); err != nil {
			return err
		}
	}
}

// attempt waits for a slot and makes one request, within its time and while bytes come.
func (p *Opener) attempt(ctx context.Context, do func(ctx context.Context, alive func()) error) error {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-p.slots }() //bounded: the slot is this attempt's own
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	stalled := fmt.Errorf("%w for %v", ErrStalled, p.o.Stall)
	late := fmt.Errorf("the attempt took longer than %v: %w", p.o.AttemptTimeout, context.DeadlineExceeded)
	stall := time.AfterFunc(p.o.Stall, func() { stop(stalled) })
	defer stall.Stop()
	whole := time.AfterFunc(p.o.AttemptTimeout, func() { stop(late) })
	defer whole.Stop()
	err := do(ctx, func() { stall.Reset(p.o.Stall) })
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause // what the library makes of an ended context says less
	}
	return err
}

// backoff is the pause after the n-th attempt: a random part, at least half, of a time that doubles, or what the server asked for.
func (p *Opener) backoff(n int, err error) time.Duration {
	d := p.o.BackoffMin
	for range n - 1 {
		d = min(2*d, p.o.BackoffMax)
	}
	d = d/2 + rand.N(d/2+1)
	var s *statusError
	if errors.As(err, &s) && s.after > d {
		d = min(s.after, p.o.BackoffMax)
	}
	return d
}

// pause waits.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

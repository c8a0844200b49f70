package fetch

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// Config says what to get.
type Config struct {
	URL  string // http or https
	Path string // the file it becomes; its folder must be there
	// MD5 and SHA256 are what the file must have, in hex; empty where it is not known.
	MD5, SHA256 string
	// MaxBytes bounds the file.
	MaxBytes int64
	// Stall is how long a server may send nothing; 0 means DefaultStall.
	Stall time.Duration
	// Attempts is how many in a row may bring nothing new; 0 means DefaultAttempts.
	Attempts int

	// Client sends the requests; nil means one that follows redirects, but none from https to http.
	Client *http.Client
	// FS is where the file is written; nil means the operating system's.
	FS vfs.FS
	// Pause waits before attempt n, counted from 1; nil means a second, twice as long each time up to half a minute, with jitter.
	Pause func(ctx context.Context, n int) error
	// Progress is told how many bytes are there, of how many; 0 where the server does not say. Nil for nobody.
	Progress func(done, total int64)
	// Log is told what goes wrong on the way; nil for nobody.
	Log func(string)
}

const (
	// DefaultStall: a link that brings no byte for half a minute will hardly bring the rest.
	DefaultStall = 30 * time.Second
	// DefaultAttempts with their pauses last some two minutes: a restarting server or a link that is dialled anew is back by then.
	DefaultAttempts = 8
	maxPause        = 30 * time.Second
)

// Validate reports every fault of the configuration at once.
func (c *Config) Validate() error {
	var errs []error
	u, err := url.Parse(c.URL)
	switch {
	case err != nil:
		errs = append(errs, fmt.Errorf("fetch: %w", err))
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		errs = append(errs, fmt.Errorf("fetch: %s: want an address that begins with https://", c.URL))
	case u.Scheme == "http" && c.MD5 == "" && c.SHA256 == "" && !loopback(u.Hostname()):
		errs = append(errs, fmt.Errorf("fetch: %s: over http anyone on the way can change the file: use https, or give its SHA-256", c.URL))
	}
	if c.Path == "" {
		errs = append(errs, errors.New("fetch: no file to write to"))
	}
	for _, s := range []struct {
		name, hex string
		bytes     int
	}{{"MD5", c.MD5, 16}, {"SHA-256", c.SHA256, 32}} {
		if b, err := hex.DecodeString(s.hex); s.hex != "" && (err != nil || len(b) != s.bytes) {
			errs = append(errs, fmt.Errorf("fetch: %q is no %s: want %d hex digits", s.hex, s.name, 2*s.bytes))
		}
	}
	if c.MaxBytes < 1 {
		errs = append(errs, fmt.Errorf("fetch: a bound of %d bytes: want at least 1", c.MaxBytes))
	}
	if c.Stall < 0 || c.Attempts < 0 {
		errs = append(errs, fmt.Errorf("fetch: %v without a byte and %d attempts: want neither below 0", c.Stall, c.Attempts))
	}
	return errors.Join(errs...)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// complete fills in what was left to defaults.
func (c *Config) complete() {
	if c.Stall == 0 {
		c.Stall = DefaultStall
	}
	if c.Attempts == 0 {
		c.Attempts = DefaultAttempts
	}
	if c.Client == nil {
		c.Client = &http.Client{CheckRedirect: checkRedirect} //bounded: attempt's watch ends a request that brings no byte
	}
	if c.FS == nil {
		c.FS = vfs.OS{}
	}
	if c.Pause == nil {
		c.Pause = pause
	}
	if c.Progress == nil {
		c.Progress = func(int64, int64) {}
	}
	if c.Log == nil {
		c.Log = func(string) {}
	}
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("more than ten redirects")
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("redirected from https to %s", req.URL)
	}
	return nil
}

// pause waits before attempt n.
func pause(ctx context.Context, n int) error {
	d := min(time.Second<<min(n-1, 10), maxPause)
	t := time.NewTimer(d/2 + rand.N(d/2))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

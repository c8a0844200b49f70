package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// newClient makes the one client of HTTP that all remote files share.
func newClient(o Options) *http.Client {
	return &http.Client{
		Timeout: o.AttemptTimeout,
		Transport: &guard{allowPlain: o.PlainHTTP, base: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: o.Stall, KeepAlive: 15 * time.Second}).DialContext,
			TLSHandshakeTimeout:   o.Stall, // the rest is the attempt's own
			ExpectContinueTimeout: time.Second,
			IdleConnTimeout:       time.Minute,
			MaxIdleConns:          o.Requests,
			MaxIdleConnsPerHost:   o.Requests,
			// A packed body would make offsets those of another file.
			DisableCompression:     true,
			MaxResponseHeaderBytes: 1 << 16,
			// HTTP/2 would send all ranges down one connection, which one lost packet holds up, and whose window bounds them together.
			Protocols: onlyHTTP1(),
		}},
	}
}

func onlyHTTP1() *http.Protocols {
	var p http.Protocols
	p.SetHTTP1(true)
	return &p
}

// A guard keeps requests, redirected ones too, from leaving this machine in clear.
type guard struct {
	base       *http.Transport
	allowPlain bool
}

func (g *guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !g.allowPlain && !loopback(r.URL.Hostname()) {
		return nil, fmt.Errorf("%s://%s: %w", r.URL.Scheme, r.URL.Host, ErrPlain)
	}
	return g.base.RoundTrip(r)
}

func (g *guard) CloseIdleConnections() { g.base.CloseIdleConnections() }

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// A webObject is a file behind a URL, read by range requests (RFC 9110, section 14).
type webObject struct {
	client *http.Client
	url    string
	// authorize adds credentials to a request; nil for none.
	authorize func(*http.Request) error
	// version takes the file's version from an answer; condition asks for that version alone.
	version   func(http.Header) string
	condition func(h http.Header, version string)

	known attributes
}

func newWebObject(client *http.Client, location string) (*webObject, error) {
	u, err := url.Parse(location)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("%s: not a URL: want https://HOST/PATH", Clean(location))
	}
	return &webObject{client: client, url: location, version: versionOf, condition: ifRange}, nil
}

func (w *webObject) expect(a attributes) { w.known = a }

// ask sends a request for a range, and turns answers that are none into errors.
func (w *webObject) ask(ctx context.Context, off, n int64) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url, nil)
	if err != nil {
		return nil, final(err)
	}
	r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	r.Header.Set("Accept-Encoding", "identity")
	if w.known.version != "" {
		w.condition(r.Header, w.known.version)
	}
	if w.authorize != nil {
		if err := w.authorize(r); err != nil {
			return nil, err
		}
	}
	resp, err := w.client.Do(r)
	if err != nil {
		var wrapped *url.Error // repeats the URL with what it is signed with
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return nil, err
	}
	if resp.StatusCode == http.StatusPreconditionFailed {
		return nil, errors.Join(ErrChanged, drop(resp))
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent && resp.StatusCode != http.StatusRequestedRangeNotSatisfiable {
		return nil, errors.Join(statusOf(resp), drop(resp))
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, errors.Join(final(fmt.Errorf("the server packs the file as %s on its way: switch that off there", e)), drop(resp))
	}
	return resp, nil
}

// stat asks for the first byte: unlike HEAD that shows that the server gives ranges, and a signed URL allows it.
func (w *webObject) stat(ctx context.Context) (attributes, error) {
	resp, err := w.ask(ctx, 0, 1)
	if err != nil {
		return attributes{}, err
	}
	a := attributes{version: w.version(resp.Header)}
	switch {
	case resp.StatusCode == http.StatusPartialContent:
		_, _, a.size, err = contentRange(resp.Header.Get("Content-Range"))
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && resp.Header.Get("Content-Range") == "bytes */0":
	case resp.StatusCode == http.StatusOK && resp.ContentLength == 0:
	case resp.StatusCode == http.StatusOK:
		err = ErrNoRanges
	default:
		err = statusOf(resp)
	}
	return a, errors.Join(err, drop(resp))
}

// get compares everything that the answer says of itself with what was asked for.
func (w *webObject) get(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	resp, err := w.ask(ctx, off, n)
	if err != nil {
		return nil, err
	}
	err = w.checkPart(resp, off, n)
	if err != nil {
		return nil, errors.Join(err, drop(resp))
	}
	return resp.Body, nil
}

func (w *webObject) checkPart(resp *http.Response, off, n int64) error {
	if v := w.version(resp.Header); v != w.known.version {
		return fmt.Errorf("%w (was %s, is %s)", ErrChanged, named(w.known.version), named(v))
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return ErrNoRanges
	case http.StatusRequestedRangeNotSatisfiable:
		return fmt.Errorf("%w: it is shorter (%s)", ErrChanged, resp.Header.Get("Content-Range"))
	}
	first, last, size, err := contentRange(resp.Header.Get("Content-Range"))
	if err != nil {
		return err
	}
	if size != w.known.size {
		return fmt.Errorf("%w (had %d bytes, has %d)", ErrChanged, w.known.size, size)
	}
	if first != off || last != off+n-1 || resp.ContentLength >= 0 && resp.ContentLength != n {
		return fmt.Errorf("the server gives bytes %d to %d (%d bytes), asked for %d to %d: %w", first, last, resp.ContentLength, off, off+n-1, ErrNoRanges)
	}
	return nil
}

func named(version string) string {
	if version == "" {
		return "unnamed"
	}
	return version
}

// versionOf takes the strongest name that the answer gives to the file's content.
func versionOf(h http.Header) string {
	if e := h.Get("ETag"); e != "" {
		return e
	}
	return h.Get("Last-Modified")
}

// ifRange makes a version the condition for a part; weak tags cannot be one, and are compared when the answer is there.
func ifRange(h http.Header, version string) {
	if !strings.HasPrefix(version, "W/") {
		h.Set("If-Range", version)
	}
}

// contentRange reads "bytes FIRST-LAST/SIZE".
func contentRange(s string) (first, last, size int64, err error) {
	bad := fmt.Errorf("%w: Content-Range is %q", ErrNoRanges, s)
	span, total, ok := strings.Cut(strings.TrimPrefix(s, "bytes "), "/")
	from, to, ok2 := strings.Cut(span, "-")
	if !ok || !ok2 || !strings.HasPrefix(s, "bytes ") {
		return 0, 0, 0, bad
	}
	var n [3]int64
	for i, text := range []string{from, to, total} {
		v, err := strconv.ParseUint(text, 10, 63)
		if err != nil {
			return 0, 0, 0, bad
		}
		n[i] = int64(v)
	}
	if n[0] > n[1] || n[1] >= n[2] {
		return 0, 0, 0, bad
	}
	return n[0], n[1], n[2], nil
}

func statusOf(resp *http.Response) error {
	e := &statusError{code: resp.StatusCode, text: resp.Status}
	if s, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 16); err == nil {
		e.after = time.Duration(s) * time.Second
	}
	return e
}

// drop ends an answer: a short rest is read so that the connection can be used again.
func drop(resp *http.Response) error {
	io.CopyN(io.Discard, resp.Body, 4096) // whatever it says, the answer is not used
	return resp.Body.Close()
}

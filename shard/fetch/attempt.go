package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A lastingError is one that asking again would not mend.
type lastingError struct{ err error }

func (e *lastingError) Error() string { return e.err.Error() }
func (e *lastingError) Unwrap() error { return e.err }

// attempt makes one request for what is missing. Nil means that the file is whole.
func (g *fetching) attempt(ctx context.Context) error {
	if g.state.Size > 0 && g.have == g.state.Size {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(g.Stall, func() { cancel(fmt.Errorf("%w: no byte for %v", ErrStalled, g.Stall)) })
	defer watch.Stop()
	resp, err := g.request(ctx)
	if err != nil {
		return because(ctx, err)
	}
	defer resp.Body.Close() // only read from
	if err := g.begin(resp); err != nil {
		return err
	}
	return g.receive(ctx, resp.Body, watch)
}

// because prefers the reason for which a request was broken off.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, ErrStalled) {
		return cause
	}
	return err
}

func (g *fetching) request(ctx context.Context) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.URL, nil)
	if err != nil {
		return nil, &lastingError{err}
	}
	req.Header.Set("Accept-Encoding", "identity") // or the sizes would be those of something else
	if g.have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", g.have))
		req.Header.Set("If-Range", g.state.Validator)
	}
	return g.Client.Do(req)
}

// begin reads an answer's head: where in the file its body begins.
func (g *fetching) begin(resp *http.Response) error {
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
		s := state{URL: g.URL, Validator: validator(resp.Header), Size: max(resp.ContentLength, 0)}
		if err := g.restart(s); err != nil {
			return &lastingError{err}
		}
		return g.room(s.Size)
	case code == http.StatusPartialContent && g.have > 0:
		from, size, ok := contentRange(resp.Header.Get("Content-Range"))
		if !ok || from != g.have || g.state.Size > 0 && size != g.state.Size {
			return g.over(fmt.Errorf("the server sends %q, wanted are bytes from %d on of %d", resp.Header.Get("Content-Range"), g.have, g.state.Size))
		}
		g.state.Size = size
		return g.room(size)
	case code == http.StatusRequestedRangeNotSatisfiable && g.have > 0:
		return g.over(fmt.Errorf("the server has no byte %d of it", g.have))
	case code == http.StatusTooManyRequests, code == http.StatusRequestTimeout, code >= 500:
		return fmt.Errorf("the server says %s", resp.Status)
	default:
		return &lastingError{fmt.Errorf("%w: the server says %s; is the address right? --url takes another", ErrRefused, resp.Status)}
	}
}

// over begins anew with the next attempt, since the server's file is not the one that the part is of.
func (g *fetching) over(cause error) error {
	if err := g.restart(state{}); err != nil {
		return &lastingError{err}
	}
	return cause
}

// validator is what a later request can name this version of the file by. Weak tags do not tell bytes apart.
func validator(h http.Header) string {
	if tag := h.Get("ETag"); strings.HasPrefix(tag, `"`) {
		return tag
	}
	return h.Get("Last-Modified")
}

// contentRange reads a Content-Range such as "bytes 100-199/200" (RFC 9110, section 14.4), of which the end is not believed.
func contentRange(s string) (from, size int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, whole, ok2 := strings.Cut(s, "/")
	first, _, ok3 := strings.Cut(span, "-")
	from, err := strconv.ParseInt(first, 10, 64)
	size, err2 := strconv.ParseInt(whole, 10, 64)
	return from, size, ok && ok2 && ok3 && err == nil && err2 == nil && 0 <= from && from < size
}

// receive appends the body to the part.
func (g *fetching) receive(ctx context.Context, body io.Reader, watch *time.Timer) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			watch.Reset(g.Stall)
			if g.state.Size > 0 && g.have+int64(n) > g.state.Size {
				return g.over(fmt.Errorf("the server sends more than the %d bytes it said", g.state.Size))
			}
			if err := g.add(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF && g.have < g.state.Size:
			return fmt.Errorf("the server stopped at byte %d of %d", g.have, g.state.Size)
		case err == io.EOF && g.have == 0:
			return errors.New("the server sent nothing")
		case err == io.EOF:
			return nil
		case err != nil:
			return because(ctx, err)
		}
	}
}

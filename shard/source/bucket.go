package source

import (
	"context"
	"fmt"
	"net/url"
	"strings"
)

// maxPages bounds a listing: 1,000 objects a page, ten times ImageNet-21k.
const maxPages = 140_000

// bucket gives the bucket of a location, and the key in it.
func (p *Opener) bucket(ctx context.Context, location, scheme string) (bucket, string, error) {
	u, err := url.Parse(location)
	if err != nil || u.Host == "" {
		return nil, "", fmt.Errorf("%s: not a URL: want %s://BUCKET/KEY", Clean(location), scheme)
	}
	key := strings.TrimPrefix(u.Path, "/")
	id := scheme + "://" + u.Host + "?" + u.RawQuery
	p.mu.Lock()
	defer p.mu.Unlock()
	if b, ok := p.buckets[id]; ok {
		return b, key, nil
	}
	open := openS3
	if scheme == "gs" {
		open = openGCS
	}
	ctx, cancel := context.WithTimeout(ctx, p.o.AttemptTimeout) // the SDKs read their settings, and may ask for credentials
	defer cancel()
	b, err := open(ctx, p.http, u, p.o)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", Clean(location), err)
	}
	p.buckets[id] = b
	return b, key, nil
}

// listBucket goes through the pages of a listing.
func (p *Opener) listBucket(ctx context.Context, location, scheme string, visit func(Entry) error) error {
	b, prefix, err := p.bucket(ctx, location, scheme)
	if err != nil {
		return err
	}
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		prefix += "/" // a folder, and not whatever begins like it
	}
	base, query, _ := strings.Cut(location, "?")
	base, _, _ = strings.Cut(base[len(scheme)+3:], "/")
	if query != "" {
		query = "?" + query
	}
	var token []byte
	for range maxPages {
		var page []listed
		var next []byte
		err := p.attempts(ctx, func(ctx context.Context, alive func()) error {
			var err error
			page, next, err = b.list(ctx, prefix, token)
			return err
		})
		if err != nil {
			return openError(location, err)
		}
		token = next
		for _, l := range page {
			name := strings.TrimPrefix(l.key, prefix)
			if name == "" || strings.HasSuffix(name, "/") {
				continue // what some consoles make for a folder
			}
			where := scheme + "://" + base + "/" + escapePath(l.key) + query
			if err := visit(Entry{Location: where, Name: name, Size: l.size, Version: l.version}); err != nil {
				return err
			}
		}
		if token == nil {
			return nil
		}
	}
	return fmt.Errorf("%s: more than %d pages of names: name a folder below it", Clean(location), maxPages)
}

// escapePath makes a key fit into a URL.
func escapePath(key string) string { return (&url.URL{Path: "/" + key}).EscapedPath()[1:] }

package source

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// schemes are the kinds of URLs that can be read.
var schemes = []string{"file", "http", "https", "s3", "gs"}

// scheme is the kind of a location, "" for a path. A path with a colon has no "//" behind it.
func scheme(location string) string {
	s, _, ok := strings.Cut(location, "://")
	if !ok || strings.ContainsAny(s, "/\\") || s == "" {
		return ""
	}
	return strings.ToLower(s)
}

// Remote says whether a location lies on another machine, as far as its form tells.
func Remote(location string) bool {
	s := scheme(location)
	return s != "" && s != "file"
}

// Lists says whether a location that is no file may be a prefix in a bucket.
func Lists(location string) bool {
	s := scheme(location)
	return s == "s3" || s == "gs"
}

// Base is the last element of a location, without a URL's parameters.
func Base(location string) string {
	if scheme(location) == "" {
		return filepath.Base(location)
	}
	p, _, _ := strings.Cut(location, "?")
	p = strings.TrimRight(p, "/")
	return p[strings.LastIndexByte(p, '/')+1:]
}

// Join names a file below a folder or prefix. A URL's parameters stay at the end.
func Join(location, name string) string {
	if scheme(location) == "" {
		return filepath.Join(location, filepath.FromSlash(name))
	}
	p, query, ok := strings.Cut(location, "?")
	p = strings.TrimRight(p, "/") + "/" + escapePath(name)
	if ok {
		p += "?" + query
	}
	return p
}

// localPath gives the path of a location on this machine.
func localPath(location string) (string, error) {
	if scheme(location) == "" {
		return location, nil
	}
	u, err := url.Parse(location)
	if err != nil {
		return "", fmt.Errorf("%s: %w", location, err)
	}
	if u.Host != "" && u.Host != "localhost" || u.Path == "" {
		return "", fmt.Errorf("%s: a file on this machine is file:///FOLDER/NAME, or just its path", location)
	}
	return filepath.FromSlash(u.Path), nil
}

// Clean takes secrets out of a location, for errors and logs: a URL's password and what a signed URL is signed with.
func Clean(location string) string {
	if !Remote(location) {
		return location
	}
	p, query, ok := strings.Cut(location, "?")
	if u, err := url.Parse(p); err == nil && u.User != nil {
		p = u.Redacted()
	}
	if !ok {
		return p
	}
	var kept []string
	for part := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(part, "=")
		if shown[strings.ToLower(name)] {
			kept = append(kept, part)
		} else {
			kept = append(kept, name+"=...")
		}
	}
	return p + "?" + strings.Join(kept, "&")
}

// shown are the parameters that are no secrets: those that gocloud.dev knows.
var shown = map[string]bool{"region": true, "endpoint": true, "profile": true, "anonymous": true, "use_path_style": true, "s3forcepathstyle": true,
	"disable_https": true, "hostname_immutable": true, "accelerate": true, "fips": true, "dualstack": true, "awssdk": true, "prefix": true}

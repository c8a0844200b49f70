package source

import (
	"slices"
	"strings"
	"testing"
)

func TestExpand(t *testing.T) {
	for pattern, want := range map[string][]string{
		"a.tar":                          {"a.tar"},
		"s3://b/x-{008..011}.tar?r={a,}": {"s3://b/x-008.tar?r=a", "s3://b/x-008.tar?r=", "s3://b/x-009.tar?r=a", "s3://b/x-009.tar?r=", "s3://b/x-010.tar?r=a", "s3://b/x-010.tar?r=", "s3://b/x-011.tar?r=a", "s3://b/x-011.tar?r="},
		"{9..11}":                        {"9", "10", "11"},
		"{train,val}/{0..1}":             {"train/0", "train/1", "val/0", "val/1"},
	} {
		got, err := Expand(pattern)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v; want %q", pattern, got, err, want)
		}
	}
	for pattern, part := range map[string]string{
		"{": "match", "}": "without", "a}{b}": "match", "{a{b}}": "match", "{3..1}": "down", "{a..b}": "numbers", "{0..999999}": "at most",
		"{0..999}{0..999}": "at most", "{-1..3}": "numbers", "{0..99999999999999}": "numbers",
	} {
		if got, err := Expand(pattern); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %d locations, error %v does not say %q", pattern, len(got), err, part)
		}
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("a-{000..012}.tar")
	f.Add("{a,b}{c,{d}")
	f.Fuzz(func(t *testing.T, pattern string) {
		got, err := Expand(pattern)
		if err == nil && (len(got) == 0 || len(got) > maxExpanded) {
			t.Fatalf("%d locations", len(got))
		}
	})
}

func TestLocations(t *testing.T) {
	for _, c := range [][3]string{
		{"s3://b/dir/?region=x", "a b.tar", "s3://b/dir/a%20b.tar?region=x"},
		{"https://h/d", "x.tar", "https://h/d/x.tar"},
		{"/a/b", "c/d", "/a/b/c/d"},
	} {
		if got := Join(c[0], c[1]); got != c[2] {
			t.Errorf("Join(%s, %s) = %s, want %s", c[0], c[1], got, c[2])
		}
	}
	for location, want := range map[string]string{"s3://b/x/y.tar?region=q/z": "y.tar", "/a/b.tar": "b.tar", "https://h/a/": "a"} {
		if got := Base(location); got != want {
			t.Errorf("Base(%s) = %s, want %s", location, got, want)
		}
	}
	for location, want := range map[string]bool{"/a/b": false, "C:\\x://y": false, "file:///a": false, "s3://b/k": true, "HTTPS://h/p": true} {
		if Remote(location) != want {
			t.Errorf("Remote(%s) = %v", location, !want)
		}
	}
	got := Clean("https://me:secret@h/p.tar?X-Amz-Signature=abc&region=r")
	if strings.Contains(got, "secret") || strings.Contains(got, "abc") || !strings.Contains(got, "region=r") {
		t.Errorf("cleaned: %s", got)
	}
}

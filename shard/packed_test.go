package shard_test

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-ml/lockstep/shard"
	"github.com/lockstep-ml/lockstep/shard/pack"
	"github.com/lockstep-ml/lockstep/shard/pack/packer"
)

// TestPackedFromAfar reads a packed set over HTTP: the same samples and fingerprint as from the disk, and damage is told by place.
func TestPackedFromAfar(t *testing.T) {
	open := func(path, split string) *shard.Dataset {
		d, err := shard.Open(t.Context(), shard.Options{Path: path, Split: split})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := errors.Join(d.Close(), d.Close()); err != nil {
				t.Error(err)
			}
		})
		return d
	}
	dir := filepath.Join(t.TempDir(), "set")
	builtin := open("builtin", "test")
	_, err := packer.Pack(t.Context(), packer.Config{Splits: []packer.Split{{Name: "val", Data: builtin}}, Out: dir, ShardBytes: 1 << 20, Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer s.Close()
	near := open(dir, "val")
	for _, location := range []string{s.URL + "/", s.URL} {
		far := open(location, "test")
		if far.Len() != 1000 || far.Fingerprint() != near.Fingerprint() {
			t.Fatalf("%d images with fingerprint %s, want %s", far.Len(), far.Fingerprint(), near.Fingerprint())
		}
		for i := 0; i < far.Len(); i += 37 {
			a, err := far.Read(t.Context(), i, nil)
			b, err2 := builtin.Read(t.Context(), i, nil)
			if err := errors.Join(err, err2); err != nil || !bytes.Equal(a, b) || far.Label(i) != builtin.Label(i) || far.Name(i) != builtin.Name(i) {
				t.Fatalf("image %d: %d bytes, %v", i, len(a), err)
			}
		}
	}
	path := filepath.Join(dir, "val", "val-000001.tar")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[700] ^= 1
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	set, err := shard.OpenPacked(t.Context(), shard.Options{Path: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	found, err := set.Verify(t.Context(), pack.VerifyConfig{Workers: 2})
	if err := errors.Join(err, set.Close()); err != nil || len(found) != 1 || !strings.Contains(found[0].Shard, "val-000001.tar") || found[0].Offset != 512 {
		t.Errorf("found %v, %v", found, err)
	}
	far := open(s.URL, "val")
	var sum *pack.ChecksumError
	for i := range far.Len() {
		if _, err := far.Read(t.Context(), i, nil); err != nil && !errors.As(err, &sum) {
			t.Fatal(err)
		}
	}
	if sum == nil || sum.Offset != 512 || sum.Sample == "" {
		t.Errorf("read without complaint: %v", sum)
	}
}

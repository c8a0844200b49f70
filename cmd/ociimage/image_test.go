package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// static builds a small program, for an architecture.
func static(t *testing.T, arch string, env ...string) string {
	t.Helper()
	dir := t.TempDir()
	src, out := filepath.Join(dir, "main.go"), filepath.Join(dir, "program")
	if err := os.WriteFile(src, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", out, src)
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch), env...)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return out
}

// unpack reads a tar file whole.
func unpack(t *testing.T, r io.Reader) (map[string][]byte, map[string]*tar.Header) {
	t.Helper()
	bodies, headers := map[string][]byte{}, map[string]*tar.Header{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return bodies, headers
		}
		if err != nil {
			t.Fatal(err)
		}
		if bodies[h.Name], err = io.ReadAll(in); err != nil {
			t.Fatal(err)
		}
		headers[h.Name] = h
	}
}

// fetch follows a descriptor, and holds what it finds against it.
func fetch(t *testing.T, files map[string][]byte, d descriptor) []byte {
	t.Helper()
	hash, _ := strings.CutPrefix(d.Digest, "sha256:")
	body, ok := files["blobs/sha256/"+hash]
	sum := sha256.Sum256(body)
	if !ok || len(body) != d.Size || hex.EncodeToString(sum[:]) != hash {
		t.Fatalf("%+v: there are %d bytes of digest %x", d, len(body), sum)
	}
	return body
}

func decode(t *testing.T, text []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

func TestImage(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		program := static(t, arch)
		out := filepath.Join(t.TempDir(), "image.tar")
		var said bytes.Buffer
		if err := run([]string{"-binary", program, "-version", "v1.2.3", "-out", out}, &said); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		files, _ := unpack(t, bytes.NewReader(text))
		var top index
		var m manifest
		var conf config
		decode(t, files["index.json"], &top)
		decode(t, fetch(t, files, top.Manifests[0]), &m)
		decode(t, fetch(t, files, m.Config), &conf)
		if conf.Architecture != arch || conf.OS != "linux" || conf.Config.User != "65532:65532" || conf.Config.Entrypoint[0] != "/lockstep" {
			t.Errorf("the image is run as %+v", conf)
		}
		if !strings.Contains(said.String(), top.Manifests[0].Digest) || !strings.Contains(said.String(), "lockstep:v1.2.3 for linux/"+arch) {
			t.Errorf("said %s", said.String())
		}
		checkLayer(t, fetch(t, files, m.Layers[0]), conf.RootFS.DiffIDs[0], program)

		again := filepath.Join(t.TempDir(), "again.tar")
		if err := run([]string{"-binary", program, "-version", "v1.2.3", "-out", again}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if second, err := os.ReadFile(again); err != nil || !bytes.Equal(text, second) {
			t.Errorf("made twice, the image has other bytes (%v)", err)
		}
	}
}

// checkLayer wants the program and an empty folder, and no shell.
func checkLayer(t *testing.T, packed []byte, diffID, program string) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(plain); "sha256:"+hex.EncodeToString(sum[:]) != diffID {
		t.Errorf("the layer hashes to %x, the configuration says %s", sum, diffID)
	}
	want, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	bodies, headers := unpack(t, bytes.NewReader(plain))
	if len(bodies) != 2 || !bytes.Equal(bodies["lockstep"], want) || headers["lockstep"].Mode != 0o555 {
		t.Errorf("the layer holds %v", headers)
	}
	if runs := headers["runs/"]; runs == nil || runs.Uid != user || runs.Gid != user || runs.Mode != 0o755 {
		t.Errorf("the folder for runs is %+v", headers["runs/"])
	}
}

func TestWhatNoEmptyImageCanRun(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	linked := "/bin/sh" // of this machine
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"-binary", text}, "not a Linux program"},
		{[]string{"-binary", linked}, "CGO_ENABLED=0"},
		{[]string{"-binary", static(t, "riscv64")}, "amd64 or arm64"},
		{[]string{"-binary", filepath.Join(dir, "none")}, "none"},
		{[]string{"-binary", text, "-version", "a:b"}, "-version"},
	} {
		if _, err := os.Stat("/lib64"); c.args[1] == linked && err != nil {
			t.Log("no linked Linux program is at hand here")
			continue
		}
		out := filepath.Join(dir, "out.tar")
		err := run(append(c.args, "-out", out), io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: %v, want %q", c.args, err, c.says)
		}
		if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v left %s", c.args, out)
		}
	}
}

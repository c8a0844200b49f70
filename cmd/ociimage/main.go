// Command ociimage puts a static binary into a container image and nothing else: the image of deploy/Dockerfile, without a daemon. The
// tar file that it writes is an OCI image layout, and at the same time what `docker load` takes. Equal inputs give equal bytes.
package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// maxBinary bounds the file that is read: it is held in memory.
const maxBinary = 1 << 30

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "ociimage:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("ociimage", flag.ContinueOnError)
	binary := flags.String("binary", "lockstep", "static Linux binary to put in")
	version := flags.String("version", "dev", "version that the binary was built with; the image's tag")
	out := flags.String("out", "lockstep.oci.tar", "file to write")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || strings.ContainsAny(*version, ":/@ \t\n") || *version == "" {
		return errors.New("want -binary FILE -version VERSION -out FILE, and a version that may be a tag")
	}
	program, err := readBinary(*binary)
	if err != nil {
		return err
	}
	arch, err := architecture(program)
	if err != nil {
		return fmt.Errorf("%s: %w", *binary, err)
	}
	im, err := newImage(program, arch, *version)
	if err != nil {
		return err
	}
	if err := vfs.WriteAtomic(vfs.OS{}, *out, 0o644, im.write); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%s: lockstep:%s for linux/%s, %s\n", filepath.Clean(*out), *version, arch, im.digest())
	return err
}

func readBinary(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxBinary+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if len(b) > maxBinary {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxBinary)
	}
	return b, nil
}

// architecture says what the binary is for, by Go's name, and that it needs nothing that an empty image lacks.
func architecture(program []byte) (string, error) {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return "", fmt.Errorf("not a Linux program: build it with GOOS=linux: %w", err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			return "", errors.New("not static, and nothing to link with is in the image: build it with CGO_ENABLED=0")
		}
	}
	switch f.Machine {
	case elf.EM_X86_64:
		return "amd64", nil
	case elf.EM_AARCH64:
		return "arm64", nil
	}
	return "", fmt.Errorf("it is for %v: want amd64 or arm64", f.Machine)
}

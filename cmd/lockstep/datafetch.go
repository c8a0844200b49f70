package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-ml/lockstep/shard/fetch"
)

// A public is an archive that anyone may fetch. md5 is as its makers publish it; empty where they publish none, or none that we have
// been able to confirm: then what guards it is TLS, and the archive's own CRC, which opening it checks.
type public struct {
	url, md5 string
	maxBytes int64 // some margin above its size
}

const fastAI = "https://s3.amazonaws.com/fast-ai-imageclas/"

// publics are the data sets by name and size of the images.
var publics = map[string]map[string]public{
	"cifar10":    {"full": {"https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", 256 << 20}},
	"cifar100":   {"full": {"https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", 256 << 20}},
	"imagenette": {"160": {fastAI + "imagenette2-160.tgz", "", 256 << 20}, "320": {fastAI + "imagenette2-320.tgz", "", 1 << 30}, "full": {fastAI + "imagenette2.tgz", "", 4 << 30}},
	"imagewoof":  {"160": {fastAI + "imagewoof2-160.tgz", "", 256 << 20}, "320": {fastAI + "imagewoof2-320.tgz", "", 1 << 30}, "full": {fastAI + "imagewoof2.tgz", "", 4 << 30}},
}

// fetchOptions are the flags of data fetch.
type fetchOptions struct {
	size, url, sha256 string
	asJSON            bool
}

// fetchReport is what data fetch says as JSON.
type fetchReport struct {
	Path    string  `json:"path"`
	Bytes   int64   `json:"bytes"`
	SHA256  string  `json:"sha256"`
	Checked bool    `json:"checked"` // against a published checksum, or --sha256
	Fetched bool    `json:"fetched"` // it was not there before
	Seconds float64 `json:"seconds"`
}

func dataFetch() *cobra.Command {
	var o fetchOptions
	names := strings.Join(slices.Sorted(maps.Keys(publics)), "|")
	cmd := &cobra.Command{
		Use:   "fetch " + names + " [DIR]",
		Short: "Download a public data set",
		Long: `Downloads the archive of a public data set, checks it and puts it into DIR (default: here), where train, ls and pack read it as it is. A
download that was broken off goes on where it stopped, after a kill too. CIFAR archives are held against their published MD5; the others have none
that this program knows: give one with --sha256, or compare the one that is printed.`,
		Example: "  lockstep data fetch cifar10 data\n  lockstep data fetch imagenette --size 320\n  lockstep data fetch cifar100 --url https://mirror.example.org/cifar-100-binary.tar.gz",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) > 1 {
				dir = args[1]
			}
			return o.run(cmd, args[0], dir)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.size, "size", "", "shorter side of imagenette's and imagewoof's images: 160, 320 or full; default 160")
	f.StringVar(&o.url, "url", "", "fetch the archive from this address instead of the official one")
	f.StringVar(&o.sha256, "sha256", "", "what the archive's SHA-256 must be, in hex")
	f.BoolVar(&o.asJSON, "json", false, "print one JSON object")
	return cmd
}

// choose finds the archive that the arguments mean.
func (o *fetchOptions) choose(name string) (public, error) {
	sizes, ok := publics[name]
	if !ok {
		return public{}, fmt.Errorf("there is no public data set %q here: want one of %s", name, strings.Join(slices.Sorted(maps.Keys(publics)), ", "))
	}
	size := o.size
	if size == "" {
		size = "160"
		if len(sizes) == 1 {
			size = "full"
		}
	}
	p, ok := sizes[size]
	if !ok {
		return p, fmt.Errorf("%s does not come in size %q: want %s", name, size, strings.Join(slices.Sorted(maps.Keys(sizes)), ", "))
	}
	return p, nil
}

func (o *fetchOptions) run(cmd *cobra.Command, name, dir string) error {
	p, err := o.choose(name)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, path.Base(p.url))
	if o.url != "" {
		p.url = o.url
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	m := newMeter(cmd.ErrOrStderr(), "")
	m.event("fetching " + p.url)
	first := int64(-1) // what an earlier call had fetched costs no time now
	r, err := fetch.Get(cmd.Context(), fetch.Config{URL: p.url, Path: file, MD5: p.md5, SHA256: o.sha256, MaxBytes: p.maxBytes, Log: m.event,
		Progress: func(done, total int64) {
			if first < 0 {
				first = done
			}
			m.show(int(done), int(total), int(first), done)
		}})
	m.end()
	if err != nil && cmd.Context().Err() != nil {
		return fmt.Errorf("%w: what has arrived stays; the same command goes on from there", errInterrupted)
	}
	if err != nil {
		return err
	}
	return o.report(cmd, file, r, m)
}

func (o *fetchOptions) report(cmd *cobra.Command, file string, r *fetch.Result, m *meter) error {
	if o.asJSON {
		return printJSON(cmd.OutOrStdout(), fetchReport{Path: file, Bytes: r.Bytes, SHA256: r.SHA256, Checked: r.Checked, Fetched: !r.WasThere, Seconds: m.seconds()})
	}
	said := "fetched, its checksum is right"
	switch {
	case r.WasThere && r.Checked:
		said = "was there, its checksum is right"
	case r.WasThere:
		said = "was there, and is not checked: its checksum is not known here"
	case !r.Checked:
		said = "fetched, and not checked: its checksum is not known here"
	}
	w := cmd.OutOrStdout()
	_, err := fmt.Fprintf(w, "%s: %s, %s\nSHA-256: %s\n", file, formatBytes(r.Bytes), said, r.SHA256)
	_, err2 := fmt.Fprintf(w, "to train on it: lockstep train --data %s\n", file)
	return errors.Join(err, err2)
}

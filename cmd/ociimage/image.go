package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
)

// user is nobody in particular, and not root.
const user = 65532

// The media types of the OCI image format.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// descriptor points at a blob.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// config says how the image is run.
type config struct {
	platform
	Config struct {
		User       string
		Entrypoint []string
		Cmd        []string
		WorkingDir string
		Volumes    map[string]struct{}
		Labels     map[string]string
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

// image is a layout's files, in order.
type image struct {
	files []file
	top   descriptor
}

type file struct {
	name string
	body []byte
}

// digest is what the image is known by.
func (im *image) digest() string { return im.top.Digest }

// blob adds content under its digest.
func (im *image) blob(mediaType string, body []byte) descriptor {
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	im.files = append(im.files, file{"blobs/sha256/" + hash, body})
	return descriptor{MediaType: mediaType, Digest: "sha256:" + hash, Size: len(body)}
}

// newImage lays out an image that holds the program.
func newImage(program []byte, arch, version string) (*image, error) {
	im := &image{}
	plain, packed, err := layer(program)
	if err != nil {
		return nil, err
	}
	layerAt := im.blob(typeLayer, packed)
	conf := config{platform: platform{arch, "linux"}}
	conf.Config.User = fmt.Sprintf("%d:%d", user, user)
	conf.Config.Entrypoint, conf.Config.Cmd, conf.Config.WorkingDir = []string{"/lockstep"}, []string{"train"}, "/"
	conf.Config.Volumes = map[string]struct{}{"/runs": {}}
	conf.Config.Labels = map[string]string{"org.opencontainers.image.title": "lockstep", "org.opencontainers.image.version": version,
		"org.opencontainers.image.licenses": "Apache-2.0", "org.opencontainers.image.source": "https://github.com/lockstep-ml/lockstep"}
	sum := sha256.Sum256(plain)
	conf.RootFS.Type, conf.RootFS.DiffIDs = "layers", []string{"sha256:" + hex.EncodeToString(sum[:])}
	configAt := im.blob(typeConfig, encode(conf))
	configName := im.files[len(im.files)-1].name
	im.top = im.blob(typeManifest, encode(manifest{2, typeManifest, configAt, []descriptor{layerAt}}))
	im.top.Platform = &conf.platform
	im.top.Annotations = map[string]string{"org.opencontainers.image.ref.name": version}
	im.files = append(im.files,
		file{"index.json", encode(index{2, typeIndex, []descriptor{im.top}})},
		file{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		file{"manifest.json", encode([]map[string]any{{"Config": configName, "RepoTags": []string{"lockstep:" + version}, "Layers": []string{im.files[0].name}}})}) // for docker load
	return im, nil
}

// layer is the image's file system, plain and packed: the program, and a folder for runs that its user may write to.
func layer(program []byte) (plain, packed []byte, err error) {
	var b, z bytes.Buffer
	t := tar.NewWriter(&b)
	err = t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "lockstep", Mode: 0o555, Size: int64(len(program)), Format: tar.FormatUSTAR})
	if err == nil {
		_, err = t.Write(program)
	}
	if err == nil {
		err = t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "runs/", Mode: 0o755, Uid: user, Gid: user, Format: tar.FormatUSTAR})
	}
	if err == nil {
		err = t.Close()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("pack the layer: %w", err)
	}
	w := gzip.NewWriter(&z)
	if _, err = w.Write(b.Bytes()); err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("pack the layer: %w", err)
	}
	return b.Bytes(), z.Bytes(), nil
}

// write writes the layout as a tar file.
func (im *image) write(w io.Writer) error {
	t := tar.NewWriter(w)
	for _, f := range im.files {
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: int64(len(f.body)), Format: tar.FormatUSTAR}); err != nil {
			return err
		}
		if _, err := t.Write(f.body); err != nil {
			return err
		}
	}
	return t.Close()
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("ociimage: texts and numbers do not marshal: %v", err))
	}
	return b
}

package shard

import (
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
)

const (
	// noLabel: a member that is no label. badLabel: one that cannot be read as one.
	noLabel  = -2
	badLabel = -1
	// maxLabel bounds a class's number: ImageNet-21k has 21,843.
	maxLabel = 1 << 20
	// maxLabelFile bounds a .cls or .json beside an image.
	maxLabelFile = 1 << 20
)

// isLabel tells a WebDataset's labels by their extension.
func isLabel(name string) bool {
	switch key, ext := splitKey(name); ext {
	case ".cls", ".json":
		return !strings.HasPrefix(path.Base(key), ".")
	}
	return false
}

// splitKey cuts a name where WebDataset does: at the first dot of its last element. The extension is in lower case.
func splitKey(name string) (key, ext string) {
	base := strings.LastIndexByte(name, '/') + 1
	dot := strings.IndexByte(name[base:], '.')
	if dot < 0 {
		return name, ""
	}
	return name[:base+dot], strings.ToLower(name[base+dot:])
}

// readLabel reads a label's file while its archive is scanned; badLabel stands for what is none, and where it matters labelError
// reads it again to say why.
func readLabel(name string, size int64, body io.Reader) int32 {
	if size > maxLabelFile {
		return badLabel
	}
	b, err := io.ReadAll(io.LimitReader(body, size))
	if err != nil || int64(len(b)) < size {
		return badLabel
	}
	return parseLabel(name, b)
}

func parseLabel(name string, b []byte) int32 {
	v, err := labelIn(name, b)
	if err != nil {
		return badLabel
	}
	return v
}

// labelIn reads the number of a class: all there is in a .cls, or "label" or "cls" of a .json.
func labelIn(name string, b []byte) (int32, error) {
	text := strings.TrimSpace(string(b[:min(len(b), 32)]))
	if _, ext := splitKey(name); ext == ".json" {
		var fields struct {
			Label *json.Number `json:"label"`
			Cls   *json.Number `json:"cls"`
		}
		if err := json.Unmarshal(b, &fields); err != nil {
			return 0, fmt.Errorf("%w, want {\"label\": NUMBER}", err)
		}
		switch {
		case fields.Label != nil:
			text = fields.Label.String()
		case fields.Cls != nil:
			text = fields.Cls.String()
		default:
			return 0, fmt.Errorf("there is neither \"label\" nor \"cls\" in it")
		}
	} else if len(b) > 32 {
		return 0, fmt.Errorf("it has %d bytes, want a number", len(b))
	}
	v, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%q is no number of a class", text)
	}
	if v >= maxLabel {
		return 0, fmt.Errorf("class %d, want less than %d", v, maxLabel)
	}
	return int32(v), nil
}

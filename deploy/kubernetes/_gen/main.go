// Command _gen writes the JSON schemas that kubeconform holds the manifests against, from Kubernetes' own Go types: fields by their
// JSON names and no others, what must be there, and the values of those strings that only have a few. So the check needs no network.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
)

// kinds are those that the manifests use.
var kinds = []struct {
	apiVersion string
	object     any
}{
	{"batch/v1", batch.Job{}},
	{"v1", core.PersistentVolumeClaim{}},
	{"v1", core.Service{}},
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: go run . FOLDER")
	}
	for _, k := range kinds {
		if err := write(os.Args[1], k.apiVersion, reflect.TypeOf(k.object)); err != nil {
			log.Fatal(err)
		}
	}
}

// write makes one kind's file, under the name by which kubeconform looks for it.
func write(dir, apiVersion string, t reflect.Type) error {
	g := &generator{defs: map[string]schema{}, sources: map[string]*source{}}
	root, err := g.object(t)
	if err != nil {
		return err
	}
	fields := root["properties"].(schema)
	fields["apiVersion"], fields["kind"] = schema{"const": apiVersion}, schema{"const": t.Name()}
	delete(fields, "status") // the cluster's, not a manifest's
	root["required"] = []string{"apiVersion", "kind", "metadata", "spec"}
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema" // kubeconform's own choice is an older one, without const
	root["$comment"] = "Code generated from k8s.io/api by deploy/kubernetes/_gen. DO NOT EDIT."
	root["$defs"] = g.defs
	text, err := compact(root)
	if err != nil {
		return err
	}
	name := strings.ToLower(t.Name() + "-" + strings.ReplaceAll(apiVersion, "/", "-") + ".json")
	return os.WriteFile(filepath.Join(dir, name), text, 0o644)
}

// compact writes a definition a line, so that a later version's differences can be read.
func compact(root schema) ([]byte, error) {
	var b bytes.Buffer
	line := func(before, key string, value any, after string) error {
		k, err := json.Marshal(key)
		if err != nil {
			return err
		}
		v, err := json.Marshal(value)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(&b, "%s%s: %s%s\n", before, k, v, after)
		return err
	}
	b.WriteString("{\n")
	for _, key := range sorted(root) {
		if key == "$defs" {
			continue
		}
		if err := line("  ", key, root[key], ","); err != nil {
			return nil, err
		}
	}
	b.WriteString("  \"$defs\": {\n")
	defs := root["$defs"].(map[string]schema)
	for i, name := range sorted(defs) {
		after := ","
		if i == len(defs)-1 {
			after = ""
		}
		if err := line("    ", name, defs[name], after); err != nil {
			return nil, err
		}
	}
	b.WriteString("  }\n}\n")
	return b.Bytes(), nil
}

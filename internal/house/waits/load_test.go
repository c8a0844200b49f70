package waits

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// module is this module's path.
const module = "github.com/lockstep-ml/lockstep"

// A pkg is one type-checked package, without its tests.
type pkg struct {
	path  string // from the module's root
	files []*ast.File
	text  map[string][]byte // of each file
	info  *types.Info
}

// A listed is what go list says of a package.
type listed struct {
	ImportPath, Dir, Export string
	GoFiles                 []string
	Module                  *struct{ Path string }
}

// A loader type-checks packages against the compiled form of what they import.
type loader struct {
	root     string
	set      *token.FileSet
	exports  map[string]string // file of a package's export data, by import path
	own      []listed          // the module's packages
	importer types.Importer
}

// newLoader asks the go command for the module's packages and for the export data of all that they import. Only the files of the
// platform that the test runs on are seen.
func newLoader(t *testing.T) *loader {
	t.Helper()
	l := &loader{root: root(t), set: token.NewFileSet(), exports: map[string]string{}}
	l.touch(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles,Module", "./...")
	cmd.Dir, cmd.WaitDelay = l.root, time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		l.exports[p.ImportPath] = p.Export
		if p.Module != nil && p.Module.Path == module {
			l.own = append(l.own, p)
		}
	}
	l.importer = importer.ForCompiler(l.set, "gc", func(path string) (io.ReadCloser, error) {
		if l.exports[path] == "" {
			return nil, fmt.Errorf("go list gave no export data for %s", path)
		}
		return os.Open(l.exports[path])
	})
	return l
}

// touch looks into every folder, so that the go command knows on what a cached result depends: it does not see what its child reads.
func (l *loader) touch(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir(l.root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && p != l.root && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// check parses and type-checks the files of one package.
func (l *loader) check(t *testing.T, path string, names []string) *pkg {
	t.Helper()
	p := &pkg{path: path, text: map[string][]byte{}, info: &types.Info{
		Types: map[ast.Expr]types.TypeAndValue{}, Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{},
		Selections: map[*ast.SelectorExpr]*types.Selection{},
	}}
	for _, name := range names {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parser.ParseFile(l.set, name, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		p.files, p.text[name] = append(p.files, f), src
	}
	conf := types.Config{Importer: l.importer}
	if _, err := conf.Check(path, l.set, p.files, p.info); err != nil {
		t.Fatal(err)
	}
	return p
}

// packages type-checks the whole module.
func (l *loader) packages(t *testing.T) []*pkg {
	t.Helper()
	var out []*pkg
	for _, p := range l.own {
		var names []string
		for _, name := range p.GoFiles {
			names = append(names, filepath.Join(p.Dir, name))
		}
		out = append(out, l.check(t, strings.TrimPrefix(p.ImportPath, module+"/"), names))
	}
	return out
}

// root is the folder of go.mod.
func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test")
		}
	}
}

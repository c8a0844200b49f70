package house

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// module is this module's path; readModule compares it with go.mod.
const module = "github.com/lockstep-ml/lockstep"

// A file is one parsed Go file.
type file struct {
	path string // slash-separated, from the root
	dir  string
	test bool
	ast  *ast.File
	set  *token.FileSet
}

func parse(set *token.FileSet, name string, src any) (*file, error) {
	a, err := parser.ParseFile(set, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	return &file{path: name, dir: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), ast: a, set: set}, nil
}

// within says whether a package stands in a tree of packages.
func within(dir, tree string) bool { return dir == tree || strings.HasPrefix(dir, tree+"/") }

// treeOf gives which of the five trees a package stands in, "" for none.
func treeOf(dir string) string {
	for _, t := range trees {
		if within(dir, t) {
			return t
		}
	}
	return ""
}

// matches compares an import path with a pattern; P/... stands for P and all below it.
func matches(pattern, p string) bool {
	if tree, ok := strings.CutSuffix(pattern, "/..."); ok {
		return within(p, tree)
	}
	return pattern == p
}

func importPath(s *ast.ImportSpec) string {
	p, err := strconv.Unquote(s.Path.Value)
	if err != nil {
		panic(fmt.Sprintf("house: the parser let %s pass as an import path", s.Path.Value))
	}
	return p
}

// imports gives the imports of this module's packages, named by folder, that are bad.
func (f *file) imports(bad func(dir string) bool) []fault {
	var out []fault
	for _, s := range f.ast.Imports {
		dir, ok := strings.CutPrefix(importPath(s), module+"/")
		if ok && bad(dir) {
			out = append(out, fault{s, "imports " + dir})
		}
	}
	return out
}

// importsOf gives the imports that match one of the patterns.
func (f *file) importsOf(patterns ...string) []fault {
	var out []fault
	for _, s := range f.ast.Imports {
		p := importPath(s)
		// net/... stands here for what is below net: the text of addresses is net's own, and has a rule of its own.
		if p != "net" && slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, p) }) {
			out = append(out, fault{s, "imports " + p})
		}
	}
	return out
}

// nameOf is the name under which a file knows an imported package, "" if it does not.
func (f *file) nameOf(imported string) string {
	for _, s := range f.ast.Imports {
		if importPath(s) != imported {
			continue
		}
		if s.Name != nil {
			return s.Name.Name
		}
		return path.Base(imported)
	}
	return ""
}

// selections gives every use PACKAGE.Name in the file for which bad(Name) holds. A dot import hides its uses, and is
// given itself.
func (f *file) selections(imported string, bad func(name string) bool) []fault {
	local := f.nameOf(imported)
	if local == "" || local == "_" {
		return nil
	}
	if local == "." {
		return []fault{{f.ast.Name, "imports " + imported + " into its own names"}}
	}
	var out []fault
	ast.Inspect(f.ast, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := s.X.(*ast.Ident); ok && x.Name == local && bad(s.Sel.Name) {
			out = append(out, fault{s, "uses " + imported + "." + s.Sel.Name})
		}
		return true
	})
	return out
}

func (f *file) uses(imported, name string) []fault {
	return f.selections(imported, func(n string) bool { return n == name })
}

func (f *file) usesOtherThan(imported string, allowed []string) []fault {
	return f.selections(imported, func(n string) bool { return !slices.Contains(allowed, n) })
}

// root is the folder of go.mod.
func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil {
			if !bytes.HasPrefix(mod, []byte("module "+module+"\n")) {
				t.Fatalf("%s/go.mod is not that of %s", dir, module)
			}
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test")
		}
	}
}

// source parses every Go file of the module. Folders that the go command passes over, and modules of their own, are left out;
// generators in folders named _gen are programs outside the house.
func source(t *testing.T) []*file {
	t.Helper()
	dir, set := root(t), token.NewFileSet()
	var files []*file
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return enter(dir, p, d.Name())
		}
		if filepath.Ext(p) != ".go" {
			return nil
		}
		src, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		f, err := parse(set, filepath.ToSlash(rel), src)
		files = append(files, f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// enter says whether a folder belongs to the module.
func enter(root, p, name string) error {
	if p == root {
		return nil
	}
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil {
		return filepath.SkipDir
	}
	return nil
}

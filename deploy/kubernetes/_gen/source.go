package main

import (
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
)

// source is what a package's text says and its types do not.
type source struct {
	enums    map[string][]string // values of the types that are marked +enum
	optional map[string]bool     // TYPE.FIELD that are marked +optional
}

// source reads a package's text, once.
func (g *generator) source(path string) (*source, error) {
	if s := g.sources[path]; s != nil {
		return s, nil
	}
	s := &source{enums: map[string][]string{}, optional: map[string]bool{}}
	g.sources[path] = s
	p, err := build.Import(path, ".", 0)
	if err != nil {
		return nil, fmt.Errorf("the text of %s: %w", path, err)
	}
	var files []*ast.File
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	for _, f := range files {
		s.types(f)
	}
	for _, f := range files { // when all enumerations are known
		s.values(f)
	}
	return s, nil
}

// types notes the marks of a file's types and fields.
func (s *source) types(f *ast.File) {
	for _, d := range f.Decls {
		decl, ok := d.(*ast.GenDecl)
		if !ok || decl.Tok != token.TYPE {
			continue
		}
		for _, spec := range decl.Specs {
			t := spec.(*ast.TypeSpec)
			if marked(decl.Doc, "+enum") || marked(t.Doc, "+enum") {
				s.enums[t.Name.Name] = []string{}
			}
			fields, ok := t.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, field := range fields.Fields.List {
				for _, name := range field.Names {
					s.optional[t.Name.Name+"."+name.Name] = marked(field.Doc, "+optional")
				}
			}
		}
	}
}

// values notes the constants of enumerations.
func (s *source) values(f *ast.File) {
	for _, d := range f.Decls {
		decl, ok := d.(*ast.GenDecl)
		if !ok || decl.Tok != token.CONST {
			continue
		}
		for _, spec := range decl.Specs {
			c := spec.(*ast.ValueSpec)
			t, ok := c.Type.(*ast.Ident)
			if !ok || s.enums[t.Name] == nil {
				continue
			}
			for _, v := range c.Values {
				if text, ok := v.(*ast.BasicLit); ok && text.Kind == token.STRING {
					if value, err := strconv.Unquote(text.Value); err == nil { // the parser has seen to that
						s.enums[t.Name] = append(s.enums[t.Name], value)
					}
				}
			}
		}
	}
}

func marked(doc *ast.CommentGroup, mark string) bool {
	if doc == nil {
		return false
	}
	for _, c := range doc.List {
		if strings.TrimSpace(strings.TrimPrefix(c.Text, "//")) == mark {
			return true
		}
	}
	return false
}

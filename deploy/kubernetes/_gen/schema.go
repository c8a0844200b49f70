package main

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// schema is a JSON schema, or a part of one.
type schema map[string]any

// special are types that write themselves in a way that their fields do not show.
var special = map[reflect.Type]schema{
	reflect.TypeFor[resource.Quantity]():  {"type": []string{"string", "number"}},
	reflect.TypeFor[intstr.IntOrString](): {"type": []string{"string", "integer"}},
	reflect.TypeFor[meta.Time]():          {"type": "string"},
	reflect.TypeFor[meta.MicroTime]():     {"type": "string"},
	reflect.TypeFor[meta.FieldsV1]():      {"type": "object"},
	reflect.TypeFor[[]byte]():             {"type": "string"},
}

// generator turns types into schemas; structs become definitions, once each.
type generator struct {
	defs    map[string]schema
	sources map[string]*source // by import path
}

// of gives the schema of a type.
func (g *generator) of(t reflect.Type) (schema, error) {
	if s, ok := special[t]; ok {
		return s, nil
	}
	switch t.Kind() {
	case reflect.Pointer:
		return g.of(t.Elem())
	case reflect.Bool:
		return schema{"type": "boolean"}, nil
	case reflect.Int, reflect.Int32, reflect.Int64:
		return schema{"type": "integer"}, nil
	case reflect.String:
		return g.text(t)
	case reflect.Slice:
		items, err := g.of(t.Elem())
		return schema{"type": "array", "items": items}, err
	case reflect.Map:
		values, err := g.of(t.Elem())
		return schema{"type": "object", "additionalProperties": values}, err
	case reflect.Struct:
		return g.definition(t)
	}
	return nil, fmt.Errorf("no schema is known for %v", t)
}

// text is a string, of a few values where its type says so.
func (g *generator) text(t reflect.Type) (schema, error) {
	if t.PkgPath() == "" {
		return schema{"type": "string"}, nil
	}
	src, err := g.source(t.PkgPath())
	if err != nil {
		return nil, err
	}
	if values := src.enums[t.Name()]; len(values) > 0 {
		return schema{"enum": values}, nil
	}
	return schema{"type": "string"}, nil
}

// definition refers to a struct's schema, which it makes at its first use.
func (g *generator) definition(t reflect.Type) (schema, error) {
	name := t.String()
	if _, known := g.defs[name]; !known {
		g.defs[name] = nil // a type may hold itself
		s, err := g.object(t)
		if err != nil {
			return nil, err
		}
		g.defs[name] = s
	}
	return schema{"$ref": "#/$defs/" + name}, nil
}

// object gives a struct's schema.
func (g *generator) object(t reflect.Type) (schema, error) {
	fields, required := schema{}, []string{}
	src, err := g.source(t.PkgPath())
	if err != nil {
		return nil, err
	}
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-":
			continue
		case name == "": // embedded
			part, err := g.object(f.Type)
			if err != nil {
				return nil, err
			}
			maps.Copy(fields, part["properties"].(schema))
			required = append(required, part["required"].([]string)...)
			continue
		}
		if fields[name], err = g.of(f.Type); err != nil {
			return nil, fmt.Errorf("%v.%s: %w", t, f.Name, err)
		}
		if !strings.Contains(options, "omit") && !src.optional[t.Name()+"."+f.Name] {
			required = append(required, name)
		}
	}
	return schema{"type": "object", "properties": fields, "required": required, "additionalProperties": false}, nil
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

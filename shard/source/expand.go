package source

import (
	"fmt"
	"strconv"
	"strings"
)

// maxExpanded bounds what a pattern stands for: ImageNet-21k has some 2,000 shards.
const maxExpanded = 100_000

// Expand gives the locations that a pattern with braces stands for, in order: {000..146} counts, with zeros in front where the first
// number has them, and {a,b} lists. Several braces multiply, the last one fastest. A location without braces is itself.
func Expand(pattern string) ([]string, error) {
	head, rest, ok := strings.Cut(pattern, "{")
	if !ok {
		if strings.Contains(pattern, "}") {
			return nil, fmt.Errorf("pattern %q: a } without a {", pattern)
		}
		return []string{pattern}, nil
	}
	inner, tail, ok := strings.Cut(rest, "}")
	if !ok || strings.ContainsAny(inner, "{") || strings.Contains(head, "}") {
		return nil, fmt.Errorf("pattern %q: braces do not match, or stand in one another", pattern)
	}
	choices, err := choicesOf(inner)
	if err != nil {
		return nil, fmt.Errorf("pattern %q: %w", pattern, err)
	}
	tails, err := Expand(tail)
	if err != nil {
		return nil, err
	}
	if len(choices)*len(tails) > maxExpanded {
		return nil, fmt.Errorf("pattern %q stands for %d files, at most %d are read", pattern, len(choices)*len(tails), maxExpanded)
	}
	out := make([]string, 0, len(choices)*len(tails))
	for _, c := range choices {
		for _, t := range tails {
			out = append(out, head+c+t)
		}
	}
	return out, nil
}

// HasPattern says whether Expand would find braces.
func HasPattern(location string) bool { return strings.ContainsAny(location, "{}") }

// choicesOf reads what stands between braces.
func choicesOf(inner string) ([]string, error) {
	from, to, ok := strings.Cut(inner, "..")
	if !ok {
		return strings.Split(inner, ","), nil
	}
	a, errA := strconv.ParseUint(from, 10, 31)
	b, errB := strconv.ParseUint(to, 10, 31)
	if errA != nil || errB != nil {
		return nil, fmt.Errorf("{%s} is no range of numbers", inner)
	}
	if b < a {
		return nil, fmt.Errorf("{%s} counts down", inner)
	}
	if b-a >= maxExpanded {
		return nil, fmt.Errorf("{%s} stands for %d files, at most %d are read", inner, b-a+1, maxExpanded)
	}
	out := make([]string, 0, b-a+1)
	for n := a; n <= b; n++ {
		out = append(out, fmt.Sprintf("%0*d", len(from), n))
	}
	return out, nil
}

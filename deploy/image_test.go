package deploy

import (
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const testVersion = "v1.2.3-test"

// instructions reads a Dockerfile: the first word of each instruction, and the rest.
func instructions() ([][2]string, error) {
	text, err := os.ReadFile("Dockerfile")
	if err != nil {
		return nil, err
	}
	var out [][2]string
	for line := range strings.Lines(strings.ReplaceAll(string(text), "\\\n", " ")) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		out = append(out, [2]string{word, strings.TrimSpace(rest)})
	}
	return out, nil
}

// shellVariable is ${NAME} or ${NAME:-ELSE}.
var shellVariable = regexp.MustCompile(`\$\{([A-Z]+)(:-[a-z]+)?\}`)

// buildLine is the Dockerfile's own build command, writing to another place.
func buildLine(vars map[string]string, out string) (string, error) {
	all, err := instructions()
	if err != nil {
		return "", err
	}
	for _, i := range all {
		line, ok := strings.CutSuffix(i[1], " && mkdir /runs")
		if i[0] != "RUN" || !strings.Contains(i[1], "go build") {
			continue
		}
		if !ok || strings.Count(line, " -o /lockstep ") != 1 {
			break
		}
		line = shellVariable.ReplaceAllStringFunc(line, func(v string) string { return vars[shellVariable.FindStringSubmatch(v)[1]] })
		return strings.Replace(line, " -o /lockstep ", " -o "+out+" ", 1), nil
	}
	return "", errors.New("Dockerfile: no build command as it is expected here: change the test with it")
}

// TestDockerfile has no daemon to build with. It builds by the Dockerfile's own command, and holds the last stage against what is wanted:
// an empty image, in which no command could run.
func TestDockerfile(t *testing.T) {
	all, err := instructions()
	if err != nil {
		t.Fatal(err)
	}
	known := []string{"FROM", "ARG", "WORKDIR", "COPY", "RUN", "LABEL", "USER", "VOLUME", "ENTRYPOINT", "CMD"}
	var last map[string][]string
	for _, i := range all {
		if !slices.Contains(known, i[0]) || i[1] == "" {
			t.Errorf("instruction %v is none that is expected here", i)
		}
		if i[0] == "FROM" {
			last = map[string][]string{}
		}
		last[i[0]] = append(last[i[0]], i[1])
	}
	want := map[string][]string{
		"FROM": {"scratch"}, "USER": {"65532:65532"}, "ENTRYPOINT": {`["/lockstep"]`}, "CMD": {`["train"]`}, "WORKDIR": {"/"}, "VOLUME": {"/runs"}, "RUN": nil,
		"COPY": {"--from=build --chmod=0555 /lockstep /lockstep", "--from=build --chown=65532:65532 /runs /runs"},
	}
	for word, values := range want {
		if !slices.Equal(last[word], values) {
			t.Errorf("%s is %q, want %q", word, last[word], values)
		}
	}
}

// TestBinaryNeedsNothing builds as the Dockerfile does: the binary must be static, know its version, and find its packages among the
// files that the build is given.
func TestBinaryNeedsNothing(t *testing.T) {
	binary, err := program()
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s is not static", binary)
		}
	}
	out, err := exec.CommandContext(t.Context(), binary, "--version").Output()
	if err != nil || !strings.Contains(string(out), testVersion) {
		t.Errorf("the version is %q, want %s (%v)", out, testVersion, err)
	}
}

// TestIgnored wants secrets to stay out of the build, and nothing that is tracked.
func TestIgnored(t *testing.T) {
	text, err := os.ReadFile("Dockerfile.dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	patterns := strings.Fields(string(text))
	if !slices.Contains(patterns, "deploy/compose/certs") {
		t.Error("the certificates would be part of the build")
	}
	list, err := exec.CommandContext(t.Context(), "git", "-C", "..", "ls-files").Output()
	if err != nil {
		t.Skipf("no git, or no checkout: %v", err)
	}
	for name := range strings.Lines(string(list)) {
		name = strings.TrimSpace(name)
		for _, p := range patterns {
			anywhere, _ := path.Match(strings.TrimPrefix(p, "**/"), path.Base(name))
			here, err := path.Match(p, name)
			if err != nil || here || strings.HasPrefix(name, p+"/") || anywhere && strings.HasPrefix(p, "**/") {
				t.Errorf("%s hides %s (%v)", p, name, err)
			}
		}
	}
}

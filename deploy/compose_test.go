package deploy

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// composeVariable is ${NAME:-ELSE}; a Compose file has no other kind here.
var composeVariable = regexp.MustCompile(`\$\{([A-Z]+):-([^}]*)\}`)

// defaults fills in what nobody has set.
func defaults(text string) string { return composeVariable.ReplaceAllString(text, "$2") }

// TestCompose holds the file against what matters; the decoder has refused any key that is not known.
func TestCompose(t *testing.T) {
	var c compose
	read(t, "compose/compose.yaml", &c, true)
	if len(c.Services) != 2 {
		t.Errorf("the services are %v", c.Services)
	}
	for name, s := range c.Services {
		if s.User != "65532:65532" || !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Equal(s.SecurityOpt, []string{"no-new-privileges:true"}) {
			t.Errorf("%s may do more than it must: %+v", name, s)
		}
		if s.Restart != "on-failure" || s.StopGrace == "" || s.Image != c.Node.Image {
			t.Errorf("%s is %+v", name, s)
		}
		for _, v := range s.Volumes {
			from, to, ok := strings.Cut(defaults(v), ":")
			if _, named := c.Volumes[from]; !ok || to == "" || !named && from[0] != '.' {
				t.Errorf("%s: volume %s comes from nowhere", name, v)
			}
		}
	}
	if c.Node.Build.Context != "../.." || c.Node.Build.Dockerfile != "deploy/Dockerfile" {
		t.Errorf("the image is built from %+v", c.Node.Build)
	}
	if !slices.Contains(c.Services["coordinator"].Command, "--workers="+c.Services["worker"].Deploy.Replicas) {
		t.Error("the coordinator waits for another number of workers than are started")
	}
}

// TestComposeTrains starts the containers' own commands. What a container knows of its address it finds by itself; here that is
// said with --advertise, since this machine has several.
func TestComposeTrains(t *testing.T) {
	var c compose
	read(t, "compose/compose.yaml", &c, true)
	cl := newCluster(t, "compose/run.yaml")
	begin := func(s service, i int, env ...string) *process {
		var args []string
		for _, a := range s.Command {
			args = append(args, defaults(a))
		}
		return cl.start(args, map[string]string{"=0.0.0.0:": "=" + cl.address(i) + ":", "=coordinator:": "=" + cl.address(10) + ":"}, env...)
	}
	workers, err := strconv.Atoi(defaults(c.Services["worker"].Deploy.Replicas))
	if err != nil {
		t.Fatal(err)
	}
	all := []*process{begin(c.Services["coordinator"], 10, short...)}
	for i := range workers {
		all = append(all, begin(c.Services["worker"], 11+i))
	}
	for _, p := range all {
		p.wait()
	}
	checkTrained(t, cl)
}

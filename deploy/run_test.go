package deploy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience bounds a short run of three processes on a busy machine.
const patience = 2 * time.Minute

// variable is what Kubernetes puts into an argument, from the container's environment.
var variable = regexp.MustCompile(`\$\(([A-Z_]+)\)`)

// program builds the binary, once, as the Dockerfile does.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "lockstep-deploy-")
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, "lockstep")
	line, err := buildLine(map[string]string{"VERSION": testVersion, "TARGETOS": "linux", "TARGETARCH": runtime.GOARCH}, out)
	if err != nil {
		return "", err
	}
	cmd := exec.Command("sh", "-c", line)
	cmd.Dir = ".."
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", line, err, text)
	}
	return out, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := program(); err == nil {
		if err := os.RemoveAll(filepath.Dir(path)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// cluster is a set of addresses of this machine, one for each pod or container, and folders in place of their volumes.
type cluster struct {
	t      *testing.T
	binary string
	runs   string
	certs  string
	paths  map[string]string // what stands in place of what is mounted
}

// newCluster makes the certificates as docs/deploy.md says: for a name, and for no address of any pod.
func newCluster(t *testing.T, config string) *cluster {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has more than one loopback address without being asked")
	}
	binary, err := program()
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, binary: binary, runs: t.TempDir(), certs: filepath.Join(t.TempDir(), "certs")}
	if out, err := exec.CommandContext(t.Context(), binary, "certs", c.certs, "--host", "lockstep").CombinedOutput(); err != nil {
		t.Fatalf("certs: %v: %s", err, out)
	}
	c.paths = map[string]string{"/runs": c.runs, "/etc/lockstep/tls": c.certs, "/etc/lockstep/run.yaml": config, "/etc/lockstep/run/run.yaml": config}
	return c
}

// address is that of pod number i, different in tests that run at the same time.
func (c *cluster) address(i int) string {
	n := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d", 1+n>>8&0x7f, n&0xff, i+2)
}

// start runs a container's arguments. Few steps of a small network are trained: LOCKSTEP_ variables outdo the configuration file.
func (c *cluster) start(args []string, names map[string]string, env ...string) *process {
	c.t.Helper()
	args = slices.Clone(args)
	for i, a := range args {
		for from, to := range names {
			a = strings.ReplaceAll(a, from, to)
		}
		if flag, path, ok := strings.Cut(a, "=/"); ok {
			for from, to := range c.paths {
				if rest, ok := strings.CutPrefix("/"+path, from); ok && (rest == "" || rest[0] == '/') {
					a = flag + "=" + to + rest
				}
			}
		}
		args[i] = a
	}
	p := &process{t: c.t, name: strings.Join(args, " "), ended: make(chan struct{})}
	ctx, cancel := context.WithCancel(c.t.Context())
	p.cmd = exec.CommandContext(ctx, c.binary, args...)
	p.cmd.Env = append(os.Environ(), append(env, "LOCKSTEP_THREADS=1")...)
	pipe, err := p.cmd.StderrPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go p.read(pipe)
	c.t.Cleanup(func() { cancel(); <-p.ended })
	return p
}

// short are the settings of a run that takes a second.
var short = []string{"LOCKSTEP_ARCH=cifar-resnet8", "LOCKSTEP_DATA=builtin", "LOCKSTEP_EPOCHS=0", "LOCKSTEP_STEPS=4", "LOCKSTEP_BATCH=32", "LOCKSTEP_REPLICA_BATCH=8",
	"LOCKSTEP_WARMUP=", "LOCKSTEP_SCHEDULE=constant", "LOCKSTEP_EVAL_EVERY=0"}

// process is a container's.
type process struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	ended chan struct{}
	mu    sync.Mutex
	said  strings.Builder
}

func (p *process) read(pipe io.Reader) {
	for lines := bufio.NewScanner(pipe); lines.Scan(); {
		p.mu.Lock()
		fmt.Fprintln(&p.said, lines.Text())
		p.mu.Unlock()
	}
	p.cmd.Wait() // its error is in ProcessState
	close(p.ended)
}

// wait wants a good end.
func (p *process) wait() {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.mu.Lock()
		defer p.mu.Unlock()
		p.t.Fatalf("%s has not ended:\n%s", p.name, p.said.String())
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		p.t.Fatalf("%s ended with code %d:\n%s", p.name, code, p.said.String())
	}
}

// TestKubernetesTrains starts the pods' own commands, each at an address of its own that no certificate names.
func TestKubernetesTrains(t *testing.T) {
	c, w := jobs(t)
	cl := newCluster(t, "kubernetes/run.yaml")
	host := c.Spec.Template.Spec.Hostname + "." + c.Spec.Template.Spec.Subdomain
	all := []*process{cl.start(c.Spec.Template.Spec.Containers[0].Args, map[string]string{"$(POD_IP)": cl.address(0)}, short...)}
	for i := range w.Spec.Completions {
		all = append(all, cl.start(w.Spec.Template.Spec.Containers[0].Args, map[string]string{"$(POD_IP)": cl.address(i + 1), host: cl.address(0),
			"$(NODE_NAME)": "node", "$(JOB_COMPLETION_INDEX)": fmt.Sprint(i)}))
	}
	for _, p := range all {
		p.wait()
	}
	checkTrained(t, cl)
}

// checkTrained wants the last step's checkpoint where the volume is.
func checkTrained(t *testing.T, c *cluster) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), c.binary, "checkpoint", "verify", filepath.Join(c.runs, "run")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := os.Stat(filepath.Join(c.runs, "run", "checkpoints", "step-000000000004.ckpt")); err != nil {
		t.Error(err)
	}
}

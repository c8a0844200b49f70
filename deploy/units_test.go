package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// setting is a line NAME=VALUE of a unit or an environment file.
type setting struct{ name, value string }

func settingsOf(t *testing.T, path string) (out []setting) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if name, value, ok := strings.Cut(line, "="); ok && line[0] != '#' {
			out = append(out, setting{name, value})
		}
	}
	return out
}

// value is the last setting of that name, as systemd takes it.
func value(settings []setting, name string) string {
	v := ""
	for _, s := range settings {
		if s.name == name {
			v = s.value
		}
	}
	return v
}

// TestUnitsVerify asks systemd, with a program at hand in place of the one that is not installed here.
func TestUnitsVerify(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("no systemd-analyze here: the units are not verified")
	}
	units, err := filepath.Glob("systemd/*.service")
	if err != nil || len(units) != 2 {
		t.Fatalf("the units are %v (%v)", units, err)
	}
	for _, u := range units {
		text, err := os.ReadFile(u)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := verify(t, filepath.Base(u), string(text)); err != nil || out != "" {
			t.Errorf("%s: %v: %s", u, err, out)
		}
		for from, to := range map[string]string{"Restart=on-failure": "Restart=on-falure", "NoNewPrivileges=": "NoNewPriviliges=", "/usr/local/bin/lockstep ": "lockstep/none "} {
			if out, _ := verify(t, filepath.Base(u), strings.Replace(string(text), from, to, 1)); out == "" {
				t.Errorf("%s: nobody minds %s", u, to)
			}
		}
	}
}

func verify(t *testing.T, name, text string) (string, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "/usr/local/bin/lockstep", self)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", path).CombinedOutput()
	var kept []string // it looks at the machine's own units too
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, strings.TrimSuffix(name, ".service")) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, ""), err
}

// TestUnitsRestart wants ends in good order to be no failures, and time to leave.
func TestUnitsRestart(t *testing.T) {
	c, w := settingsOf(t, "systemd/lockstep-coordinator.service"), settingsOf(t, "systemd/lockstep-worker@.service")
	for _, u := range [][]setting{c, w} {
		for name, want := range map[string]string{"Restart": "on-failure", "KillSignal": "SIGTERM", "User": "lockstep", "ProtectSystem": "strict", "NoNewPrivileges": "yes"} {
			if got := value(u, name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
	}
	if got := value(c, "SuccessExitStatus"); got != "130 143" {
		t.Errorf("the coordinator ends well with %q", got)
	}
	if got := value(w, "SuccessExitStatus"); got != "130" {
		t.Errorf("a worker ends well with %q", got)
	}
}

// TestUnitsTrain starts the units' own commands with the example's settings, at other addresses and without its data.
func TestUnitsTrain(t *testing.T) {
	cl := newCluster(t, "")
	text, err := os.ReadFile("systemd/run.yaml")
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "run.yaml")
	names := map[string]string{"10.0.0.1": cl.address(20), "10.0.0.2": cl.address(21), "/etc/lockstep/tls": cl.certs, "/var/lib/lockstep": cl.runs,
		"/etc/lockstep/run.yaml": config, "%l-%i": "host-1", "workers: 8": "workers: 1"}
	replace := func(s string) string {
		for from, to := range names {
			s = strings.ReplaceAll(s, from, to)
		}
		return s
	}
	if err := os.WriteFile(config, []byte(replace(string(text))), 0o600); err != nil {
		t.Fatal(err)
	}
	command := func(unit string) []string {
		args := strings.Fields(replace(value(settingsOf(t, unit), "ExecStart")))
		return args[1:]
	}
	var env []string
	for _, s := range settingsOf(t, "systemd/worker.env") {
		if s.name != "LOCKSTEP_DATA" { // the run's, here
			env = append(env, replace(fmt.Sprintf("%s=%s", s.name, s.value)))
		}
	}
	// The certificates are those of a cluster with a name, not of hosts.
	coordinator := cl.start(command("systemd/lockstep-coordinator.service"), nil, append(short, "LOCKSTEP_TLS_NAME=lockstep")...)
	worker := cl.start(command("systemd/lockstep-worker@.service"), nil, append(env, "LOCKSTEP_TLS_NAME=lockstep")...)
	coordinator.wait()
	worker.wait()
	checkTrained(t, cl)
}

package runfolder

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/lockstep-ml/lockstep/internal/simd"
	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// RunName is the file that tells what a run is.
const RunName = "run.json"

// Run is what run.json holds.
type Run struct {
	Recipe     string            `json:"recipe,omitempty"`
	Settings   map[string]string `json:"settings"` // every one, as its flag reads it
	Data       string            `json:"data"`     // in words
	DataHash   string            `json:"data_fingerprint"`
	Parameters int               `json:"parameters"` // of the network
	Steps      uint64            `json:"steps"`      // of the whole run
	Starts     []Start           `json:"starts"`     // one for each time that it was begun or gone on with
	Result     *Result           `json:"result,omitempty"`
}

// Start is one life of a run: where and by what it was trained.
type Start struct {
	Time     time.Time `json:"time"`
	FromStep uint64    `json:"from_step"`
	Workers  int       `json:"workers"` // that it began with
	Environment
}

// Environment is the coordinator's program and machine.
type Environment struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"` // of the source, with "+" if it was changed; empty where the build does not know
	Go       string `json:"go"`
	System   string `json:"system"`        // operating system and architecture
	CPU      string `json:"cpu,omitempty"` // as the system names it
	Cores    int    `json:"cores"`
	SIMD     string `json:"simd"` // the family of kernels
}

// Result is how far a run has come.
type Result struct {
	Step            uint64   `json:"step"`
	Hash            string   `json:"hash"`
	Loss            *float64 `json:"loss,omitempty"` // of the newest step
	ImagesPerSecond *float64 `json:"images_per_second,omitempty"`
	TestLoss        *float64 `json:"test_loss,omitempty"`
	TestTop1        *float64 `json:"test_top1,omitempty"`
	TestTop5        *float64 `json:"test_top5,omitempty"`
	Hosts           int      `json:"hosts,omitempty"` // machines that workers have reported from
	Error           string   `json:"error,omitempty"` // why it ended before its last step
}

// Done says whether the run has done all its steps.
func (r *Run) Done() bool { return r.Result != nil && r.Result.Error == "" && r.Result.Step >= r.Steps }

// Here describes this process; version is its own name for itself.
func Here(version string) Environment {
	e := Environment{Version: version, Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH, CPU: cpuName(), Cores: runtime.NumCPU()}
	if f, err := simd.Choose(); err == nil {
		e.SIMD = f.String()
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return e
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			e.Revision = s.Value + e.Revision
		case s.Key == "vcs.modified" && s.Value == "true":
			e.Revision += "+"
		}
	}
	return e
}

// cpuName asks Linux; elsewhere it is not known.
func cpuName() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer f.Close() // only read from
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if name, value, found := strings.Cut(lines.Text(), ":"); found && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// maxRun bounds what is read of a run.json: thousands of starts.
const maxRun = 8 << 20

// ReadRun reads the run.json of a folder. One that is not there is an error that is os.ErrNotExist.
func ReadRun(dir string) (*Run, error) {
	path := filepath.Join(dir, RunName)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read from
	raw, err := io.ReadAll(io.LimitReader(f, maxRun+1))
	if err == nil && len(raw) > maxRun {
		err = errors.New("it is too long")
	}
	var r Run
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &r, nil
}

// Write replaces the run.json of a folder.
func (r *Run) Write(fsys vfs.FS, dir string) error {
	return vfs.WriteAtomic(fsys, filepath.Join(dir, RunName), 0o644, func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	})
}

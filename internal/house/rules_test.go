package house

import (
	"fmt"
	"go/ast"
	"path"
	"slices"
	"strings"
)

// trees are the five parts that know nothing of one another.
var trees = []string{"core", "allreduce", "shard", "checkpoint", "coordinator"}

// implementations are what sits behind an interface: the packages that somebody has to pick.
var implementations = []string{"core/cpu", "core/reference", "allreduce/grpc", "allreduce/memnet", "coordinator/server"}

// A rule is something that every file keeps to.
type rule struct {
	name   string
	reason string
	tests  bool                  // test files keep to it too
	check  func(f *file) []fault // what in a file breaks it
	breaks []fake                // files that must be found
	keeps  []fake                // files that must not
}

// A fault is a place in a file and what is wrong there.
type fault struct {
	at   ast.Node
	what string
}

// blank says whether the fault is an import for nothing but its effects.
func (f fault) blank() bool {
	s, ok := f.at.(*ast.ImportSpec)
	return ok && s.Name != nil && s.Name.Name == "_"
}

// A fake is a file made up to try a rule on.
type fake struct{ path, src string }

// importing is the text of a file that imports packages.
func importing(paths ...string) string {
	var b strings.Builder
	b.WriteString("package p\n")
	for _, p := range paths {
		fmt.Fprintf(&b, "import %q\n", p)
	}
	return b.String()
}

// own is the import path of a package of this module.
func own(dir string) string { return path.Join(module, dir) }

var rules = []rule{
	{
		name: "the five stand apart",
		reason: "core, allreduce, shard, checkpoint and coordinator can each be read, tested and replaced alone; " +
			"what two of them share belongs into internal, what joins them into worker",
		check: func(f *file) []fault {
			tree := treeOf(f.dir)
			if tree == "" {
				return nil
			}
			return f.imports(func(to string) bool { return !within(to, tree) && !within(to, "internal") })
		},
		breaks: []fake{
			{"core/x.go", importing(own("shard"))},
			{"allreduce/grpc/x.go", importing(own("core"))},
			{"checkpoint/x.go", importing(own("core/resnet"))},
			{"coordinator/server/x.go", importing(own("worker"))},
			{"shard/x.go", importing(own("cmd/lockstep"))},
		},
		keeps: []fake{
			{"core/cpu/x.go", importing(own("core"), "golang.org/x/sys/cpu")},
			{"coordinator/server/x.go", importing(own("coordinator"), own("internal/snapshot"))},
			{"worker/x.go", importing(own("core"))},
		},
	},
	{
		name: "worker declares what it needs",
		reason: "the training loop knows core's vocabulary and its own interfaces; if it named a ring, a loader or an engine, " +
			"no test could put a scripted one in its place",
		check: func(f *file) []fault {
			if !within(f.dir, "worker") {
				return nil
			}
			return f.imports(func(to string) bool { return to != "core" && !within(to, "worker") && !within(to, "internal") })
		},
		breaks: []fake{
			{"worker/x.go", importing(own("allreduce"))},
			{"worker/x.go", importing(own("core/cpu"))},
			{"worker/x.go", importing(own("coordinator"))},
		},
		keeps: []fake{{"worker/x.go", importing(own("core"), own("internal/snapshot"), "context")}},
	},
	{
		name:   "internal is the floor",
		reason: "internal packages serve all others; one that looked up would tie to one another those that use it",
		check: func(f *file) []fault {
			if !within(f.dir, "internal") {
				return nil
			}
			return f.imports(func(to string) bool { return !within(to, "internal") })
		},
		breaks: []fake{
			{"internal/snapshot/x.go", importing(own("core"))},
			{"internal/gossip/x.go", importing(own("coordinator/server"))},
		},
		keeps: []fake{{"internal/tlsconf/x.go", importing(own("internal/vfs"), "crypto/tls")}},
	},
	{
		name: "only cmd picks implementations",
		reason: "whoever imports an engine, a transport or a server cannot be had without it; the choice is made once, where the " +
			"flags are. One exception: core/enginetest compares every engine with core/reference",
		check: func(f *file) []fault {
			return f.imports(func(to string) bool {
				switch {
				case !slices.Contains(implementations, to), f.dir == to, within(f.dir, "cmd"):
					return false
				}
				return f.dir != "core/enginetest" || to != "core/reference"
			})
		},
		breaks: []fake{
			{"core/resnet/x.go", importing(own("core/cpu"))},
			{"core/enginetest/x.go", importing(own("core/cpu"))},
			{"allreduce/x.go", importing(own("allreduce/grpc"))},
			{"coordinator/x.go", importing(own("coordinator/server"))},
		},
		keeps: []fake{
			{"cmd/lockstep/x.go", importing(own("core/cpu"), own("allreduce/grpc"))},
			{"core/enginetest/x.go", importing(own("core/reference"))},
		},
	},
	{
		name: "the command line belongs to cmd",
		reason: "a package is told what to do by its Config; a second reader of flags or arguments would give a setting two meanings. " +
			"A blank import reads nothing",
		check: func(f *file) []fault {
			if within(f.dir, "cmd") {
				return nil
			}
			libraries := f.importsOf("flag", "github.com/spf13/...", "github.com/knadh/koanf/...")
			return append(slices.DeleteFunc(libraries, fault.blank), f.uses("os", "Args")...)
		},
		breaks: []fake{
			{"shard/x.go", importing("flag")},
			{"worker/x.go", importing("github.com/spf13/cobra")},
			{"internal/vfs/x.go", importing("github.com/knadh/koanf/v2")},
			{"core/x.go", "package p\nimport system \"os\"\nvar n = len(system.Args)"},
		},
		keeps: []fake{
			{"cmd/lockstep/x.go", importing("flag", "github.com/spf13/cobra")},
			{"shard/x.go", "package p\nimport \"os\"\nvar f = os.Open"},
			{"internal/x/x.go", "package p\nimport _ \"flag\""},
			{"shard/x.go", "package p\ntype t struct{ Args int }\nfunc f(os t) int { return os.Args }"},
		},
	},
	{
		name:   "no cgo",
		reason: "the promise is one static binary that any Go toolchain cross-compiles; libraries are found at run time, if at all",
		tests:  true,
		check:  func(f *file) []fault { return f.importsOf("C") },
		breaks: []fake{
			{"core/cpu/x.go", importing("C")},
			{"core/cpu/x_test.go", importing("C")},
		},
		keeps: []fake{{"core/cpu/x.go", importing("unsafe")}},
	},
	{
		name: "the coordinator's mind is pure",
		reason: "coordinator is a state machine: the same events give the same actions, so a script can replay any failure. Time " +
			"comes with Tick; sockets, disks and goroutines are coordinator/server's",
		check:  impurities,
		breaks: pureBreaks,
		keeps: []fake{
			{"coordinator/x.go", "package p\nimport \"time\"\nconst d = time.Second\nfunc f(a, b time.Time) time.Duration { return a.Sub(b) }"},
			{"coordinator/x.go", "package p\nimport \"net\"\nvar f = net.SplitHostPort"},
			{"coordinator/server/x.go", "package p\nimport (\"net\"; \"os\")\nfunc f() { go println(net.Listen, os.Open) }"},
		},
	},
}

// clockFree is what package time may be used for without a clock.
var clockFree = []string{"Duration", "Time", "Month", "Weekday", "Unix", "UnixMilli", "ParseDuration", "Nanosecond", "Microsecond",
	"Millisecond", "Second", "Minute", "Hour", "RFC3339", "RFC3339Nano"}

// addressText is what package net may be used for without a socket: to look at the text of an address.
var addressText = []string{"SplitHostPort", "JoinHostPort", "ParseIP"}

// impurities lists what ties the state machine to a clock, a socket, a disk, chance or the scheduler.
func impurities(f *file) []fault {
	if f.dir != "coordinator" {
		return nil
	}
	faults := f.importsOf("os", "os/...", "io/fs", "syscall", "net/...", "sync", "sync/...", "context", "math/rand", "math/rand/v2", "crypto/rand", "google.golang.org/...")
	faults = append(faults, f.usesOtherThan("time", clockFree)...)
	faults = append(faults, f.usesOtherThan("net", addressText)...)
	ast.Inspect(f.ast, func(n ast.Node) bool {
		switch n.(type) {
		case *ast.GoStmt:
			faults = append(faults, fault{n, "starts a goroutine"})
		case *ast.SelectStmt:
			faults = append(faults, fault{n, "selects among channels"})
		case *ast.ChanType:
			faults = append(faults, fault{n, "has a channel"})
		}
		return true
	})
	return faults
}

var pureBreaks = []fake{
	{"coordinator/x.go", importing("os")},
	{"coordinator/x.go", importing("net/http")},
	{"coordinator/x.go", importing("sync")},
	{"coordinator/x.go", importing("math/rand/v2")},
	{"coordinator/x.go", "package p\nimport \"time\"\nvar t = time.Now()"},
	{"coordinator/x.go", "package p\nimport t \"time\"\nvar c = t.After"},
	{"coordinator/x.go", "package p\nimport . \"time\"\nvar t = Now()"},
	{"coordinator/x.go", "package p\nimport \"net\"\nvar l = net.Listen"},
	{"coordinator/x.go", "package p\nfunc f() { go f() }"},
	{"coordinator/x.go", "package p\nfunc f() { select {} }"},
	{"coordinator/x.go", "package p\nvar c chan int"},
}

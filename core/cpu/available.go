package cpu

import (
	"bufio"
	"bytes"
	"io/fs"
	"math"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
)

// AvailableMemory is how many bytes this process may still take, which New holds an engine's arena against; false where nobody says.
func AvailableMemory() (int64, bool) { return availableMemory() }

// availableMemory is how many bytes this process may still take; false where nobody says.
func availableMemory() (int64, bool) {
	if runtime.GOOS != "linux" {
		return 0, false
	}
	return memoryOf(os.DirFS("/"))
}

// memoryOf reads a Linux system's files: what the kernel holds to be available, or what a control group leaves if that is less.
// Pages of files count as free, for the kernel takes them back when asked: a worker that has read its data would else be refused.
func memoryOf(root fs.FS) (int64, bool) {
	least, known := table(root, "proc/meminfo")["MemAvailable"]
	least *= 1 << 10
	for _, g := range groupsOf(root) {
		if left, limited := g.left(root); limited && (!known || left < least) {
			least, known = left, true
		}
	}
	return least, known
}

// group is a control group's folder and the names of its files.
type group struct{ dir, limit, used, cache string }

// groupsOf lists this process's memory groups, in either version of the interface, and all that these are in: each may have a limit. In a
// container the path is often that of the host, of which only the root is to be seen here.
func groupsOf(root fs.FS) (out []group) {
	b, _ := fs.ReadFile(root, "proc/self/cgroup") // none: no groups
	for line := range strings.Lines(string(b)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, at, ok := strings.Cut(rest, ":")
		var g group
		switch {
		case !ok:
			continue
		case controllers == "":
			g = group{"sys/fs/cgroup", "memory.max", "memory.current", ""}
		case strings.Contains(","+controllers+",", ",memory,"):
			g = group{"sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"}
		default:
			continue
		}
		for at = path.Clean("/" + at); ; at = path.Dir(at) {
			inner := g
			inner.dir = path.Join(g.dir, at)
			out = append(out, inner)
			if at == "/" {
				break
			}
		}
	}
	return out
}

// left is what a group may still take; false if it has no limit.
func (g group) left(root fs.FS) (int64, bool) {
	limit, limited := number(root, path.Join(g.dir, g.limit))
	used, counted := number(root, path.Join(g.dir, g.used))
	if !limited || !counted || limit > math.MaxInt64/2 { // version 1 writes a number near the largest for no limit
		return 0, false
	}
	stat := table(root, path.Join(g.dir, "memory.stat"))
	files := stat[g.cache+"inactive_file"] + stat[g.cache+"active_file"]
	return max(0, limit-max(0, used-files)), true
}

// number reads a file that holds one; "max" is none.
func number(root fs.FS, name string) (int64, bool) {
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
	return n, err == nil
}

// table reads lines of a name and a number.
func table(root fs.FS, name string) map[string]int64 {
	out := map[string]int64{}
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return out
	}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		if f := strings.Fields(lines.Text()); len(f) >= 2 {
			if n, err := strconv.ParseInt(f[1], 10, 64); err == nil {
				out[strings.TrimSuffix(f[0], ":")] = n
			}
		}
	}
	return out
}

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// resetPeakRSS makes the kernel count this process's most memory anew; false where it does not.
func resetPeakRSS() bool {
	return os.WriteFile("/proc/self/clear_refs", []byte("5"), 0o200) == nil
}

// peakRSS is the most memory that this process has held at once, in bytes; 0 where the system does not say.
func peakRSS() int64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	return statusBytes(string(b), "VmHWM")
}

// statusBytes finds a figure that Linux gives in kB.
func statusBytes(status, field string) int64 {
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		if f := strings.Fields(value); name == field && len(f) == 2 && f[1] == "kB" {
			n, err := strconv.ParseInt(f[0], 10, 64)
			if err == nil {
				return n << 10
			}
		}
	}
	return 0
}

// size writes a number of bytes for people.
func size(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}

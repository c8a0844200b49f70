package netlab

import (
	"strings"
	"testing"
	"time"
)

func TestValidate(t *testing.T) {
	if err := (Config{Nodes: 2, BitsPerSecond: 1e9}).Validate(); err != nil {
		t.Error(err)
	}
	err := Config{Nodes: 65, BitsPerSecond: 1, Delay: time.Hour}.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"65 nodes", "1 bit/s", "1h0m0s"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}

func TestNodeOf(t *testing.T) {
	for _, c := range []struct {
		ip   []byte
		want int
	}{
		{[]byte{198, 19, 0, 1}, 0}, {[]byte{198, 19, 0, 64}, 63}, {[]byte{198, 19, 0, 0}, -1}, {[]byte{198, 18, 0, 1}, -1}, {[]byte{198, 19, 0}, -1},
	} {
		if got := nodeOf(c.ip); got != c.want {
			t.Errorf("%v is node %d, want %d", c.ip, got, c.want)
		}
	}
}

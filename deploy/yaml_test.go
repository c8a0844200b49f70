package deploy

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"go.yaml.in/yaml/v3"
)

// job is what the tests look at of a Kubernetes Job; kubeconform sees to the rest.
type job struct {
	Metadata struct{ Name string }
	Spec     struct {
		Completions, Parallelism int
		CompletionMode           string `yaml:"completionMode"`
		PodFailurePolicy         struct {
			Rules []struct {
				Action      string
				OnExitCodes struct{ Values []int } `yaml:"onExitCodes"`
			}
		} `yaml:"podFailurePolicy"`
		Template struct {
			Metadata struct{ Labels map[string]string }
			Spec     pod
		}
	}
}

type pod struct {
	Hostname, Subdomain string
	Grace               int `yaml:"terminationGracePeriodSeconds"`
	SecurityContext     struct {
		RunAsUser int  `yaml:"runAsUser"`
		NonRoot   bool `yaml:"runAsNonRoot"`
	} `yaml:"securityContext"`
	Containers []struct {
		Image          string
		Args           []string
		Env            []struct{ Name string }
		Ports          []port
		ReadinessProbe struct {
			TCPSocket struct{ Port string } `yaml:"tcpSocket"`
		} `yaml:"readinessProbe"`
		VolumeMounts []struct {
			Name, MountPath string
		} `yaml:"volumeMounts"`
	}
	Volumes []struct {
		Name                  string
		PersistentVolumeClaim struct {
			ClaimName string `yaml:"claimName"`
		} `yaml:"persistentVolumeClaim"`
		ConfigMap struct{ Name string } `yaml:"configMap"`
		Secret    struct {
			SecretName string `yaml:"secretName"`
		}
	}
}

type port struct {
	Name          string
	ContainerPort int `yaml:"containerPort"`
}

// compose is the part of Compose's format that is used here: anything else in the file is an error.
type compose struct {
	Name     string
	Node     service `yaml:"x-node"`
	Services map[string]service
	Volumes  map[string]any
}

type service struct {
	Image string
	Build struct {
		Context, Dockerfile string
		Args                map[string]string
	}
	User        string
	ReadOnly    bool     `yaml:"read_only"`
	CapDrop     []string `yaml:"cap_drop"`
	SecurityOpt []string `yaml:"security_opt"`
	Restart     string
	Command     []string
	StopGrace   string `yaml:"stop_grace_period"`
	Deploy      struct{ Replicas string }
	Volumes     []string
}

// read decodes a YAML file of one document; strict refuses what into does not know.
func read(t *testing.T, path string, into any, strict bool) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(strict)
	if err := d.Decode(into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		t.Fatalf("%s: more than one document, or %v", path, err)
	}
}

package deploy

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func jobs(t *testing.T) (coordinator, workers job) {
	t.Helper()
	read(t, "kubernetes/coordinator.yaml", &coordinator, false)
	read(t, "kubernetes/workers.yaml", &workers, false)
	return coordinator, workers
}

// TestKustomization wants every manifest listed, and no namespace: that is the user's.
func TestKustomization(t *testing.T) {
	var k struct {
		Resources          []string
		Images             []struct{ Name string }
		ConfigMapGenerator []struct {
			Name  string
			Files []string
		} `yaml:"configMapGenerator"`
	}
	read(t, "kubernetes/kustomization.yaml", &k, false)
	files, err := filepath.Glob("kubernetes/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	listed := append(k.Resources, "kustomization.yaml", k.ConfigMapGenerator[0].Files[0])
	for _, f := range files {
		if !slices.Contains(listed, filepath.Base(f)) {
			t.Errorf("kustomization.yaml does not list %s", f)
		}
		var doc map[string]any
		read(t, f, &doc, false)
		if meta, ok := doc["metadata"].(map[string]any); ok && meta["namespace"] != nil {
			t.Errorf("%s names a namespace", f)
		}
	}
	if len(files) != len(listed) {
		t.Errorf("kustomization.yaml lists %v, there are %v", listed, files)
	}
	c, w := jobs(t)
	for _, j := range []job{c, w} {
		if image := j.Spec.Template.Spec.Containers[0].Image; image != k.Images[0].Name {
			t.Errorf("%s runs %s, the tag is set of %s", j.Metadata.Name, image, k.Images[0].Name)
		}
	}
}

// TestPodsFindEachOther holds the names in the manifests against one another.
func TestPodsFindEachOther(t *testing.T) {
	var svc, claim struct {
		Metadata struct{ Name string }
		Spec     struct {
			ClusterIP string `yaml:"clusterIP"`
			Selector  map[string]string
			Ports     []struct{ Port int }
		}
	}
	read(t, "kubernetes/service.yaml", &svc, false)
	read(t, "kubernetes/volume.yaml", &claim, false)
	c, w := jobs(t)
	for _, j := range []job{c, w} {
		p := j.Spec.Template.Spec
		if p.Subdomain != svc.Metadata.Name {
			t.Errorf("%s: subdomain %q is not the Service's name", j.Metadata.Name, p.Subdomain)
		}
		for key, value := range svc.Spec.Selector {
			if j.Spec.Template.Metadata.Labels[key] != value {
				t.Errorf("%s: the Service does not select the pods: they have no label %s=%s", j.Metadata.Name, key, value)
			}
		}
		checkPod(t, j, claim.Metadata.Name)
	}
	if svc.Spec.ClusterIP != "None" {
		t.Error("the Service is not headless: pods have no names")
	}
	join := c.Spec.Template.Spec.Hostname + "." + svc.Metadata.Name + ":7946"
	if !slices.Contains(w.Spec.Template.Spec.Containers[0].Args, "--join="+join) {
		t.Errorf("workers do not join at %s", join)
	}
}

// checkPod holds a pod's parts against one another.
func checkPod(t *testing.T, j job, claim string) {
	t.Helper()
	p, name := j.Spec.Template.Spec, j.Metadata.Name
	if !p.SecurityContext.NonRoot || p.SecurityContext.RunAsUser != 65532 {
		t.Errorf("%s does not run as the image's user", name)
	}
	volumes, env, ports := map[string]bool{}, map[string]bool{"JOB_COMPLETION_INDEX": j.Spec.CompletionMode == "Indexed"}, map[string]int{}
	for _, v := range p.Volumes {
		volumes[v.Name] = true
		if v.PersistentVolumeClaim.ClaimName+v.ConfigMap.Name+v.Secret.SecretName == "" || v.PersistentVolumeClaim.ClaimName != "" && v.PersistentVolumeClaim.ClaimName != claim {
			t.Errorf("%s: volume %s comes from nowhere", name, v.Name)
		}
	}
	c := p.Containers[0]
	for _, m := range c.VolumeMounts {
		if !volumes[m.Name] {
			t.Errorf("%s mounts %s, which is no volume", name, m.Name)
		}
	}
	for _, e := range c.Env {
		env[e.Name] = true
	}
	for _, p := range c.Ports {
		ports[p.Name] = p.ContainerPort
	}
	if ports[c.ReadinessProbe.TCPSocket.Port] == 0 {
		t.Errorf("%s: the probe asks at %q, which is no port", name, c.ReadinessProbe.TCPSocket.Port)
	}
	for _, arg := range c.Args {
		for _, v := range variable.FindAllStringSubmatch(arg, -1) {
			if !env[v[1]] {
				t.Errorf("%s: nothing sets the variable in %s", name, arg)
			}
		}
		if _, number, ok := strings.Cut(arg, "]:"); ok && !slices.ContainsFunc(c.Ports, func(p port) bool { return strconv.Itoa(p.ContainerPort) == number }) {
			t.Errorf("%s: %s is no port of the container", name, arg)
		}
	}
}

// TestRescheduledPodsAreNoFailures wants the exit codes of pods that were moved to be ignored, and enough workers.
func TestRescheduledPodsAreNoFailures(t *testing.T) {
	c, w := jobs(t)
	ignored := func(j job) (codes []int, disruptions bool) {
		for _, r := range j.Spec.PodFailurePolicy.Rules {
			if r.Action == "Ignore" {
				codes = append(codes, r.OnExitCodes.Values...)
				disruptions = disruptions || len(r.OnExitCodes.Values) == 0
			}
		}
		return codes, disruptions
	}
	if codes, ok := ignored(c); !ok || !slices.Equal(codes, []int{143}) {
		t.Errorf("of the coordinator, exit codes %v are ignored", codes)
	}
	if codes, ok := ignored(w); !ok || !slices.Equal(codes, []int{130}) {
		t.Errorf("of workers, exit codes %v are ignored", codes)
	}
	var run struct{ Workers int }
	read(t, "kubernetes/run.yaml", &run, false)
	if w.Spec.Completions != w.Spec.Parallelism || w.Spec.Parallelism < run.Workers || run.Workers == 0 {
		t.Errorf("training begins with %d workers, of %d at a time and %d in all", run.Workers, w.Spec.Parallelism, w.Spec.Completions)
	}
}

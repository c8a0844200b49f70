package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
)

const (
	gcsHost  = "https://storage.googleapis.com"
	gcsScope = "https://www.googleapis.com/auth/devstorage.read_only"
	// maxListing bounds one page of a listing, whose 1,000 objects take some 1 kB each.
	maxListing = 16 << 20
)

// A gcsBucket is a bucket of Google Cloud Storage. Its objects are files behind URLs, so webObject reads them; only credentials and
// the listing are its own. Google's client library would do the same with 31 MB more of binary, for the service mesh of gRPC and monitoring.
type gcsBucket struct {
	client *http.Client
	host   string
	name   string
	tokens oauth2.TokenSource // nil: anonymous
}

// openGCS finds Google's default credentials. The one parameter is anonymous=true.
func openGCS(ctx context.Context, client *http.Client, u *url.URL, o Options) (bucket, error) {
	b := &gcsBucket{client: client, host: gcsHost, name: u.Host}
	q := u.Query()
	anonymous := q.Get("anonymous")
	q.Del("anonymous")
	if len(q) > 0 || anonymous != "" && anonymous != "true" {
		return nil, fmt.Errorf("parameters %q: the only one for gs:// is anonymous=true", u.RawQuery)
	}
	if e := os.Getenv("STORAGE_EMULATOR_HOST"); e != "" {
		if !strings.Contains(e, "://") {
			e = "http://" + e
		}
		b.host = strings.TrimRight(e, "/")
		return b, nil
	}
	if anonymous != "" {
		return b, nil
	}
	// Tokens are fetched later too, when this call's ctx has ended.
	ctx = context.WithValue(context.WithoutCancel(ctx), oauth2.HTTPClient, &http.Client{Timeout: o.Stall}) //bounded: the client's timeout
	c, err := google.FindDefaultCredentials(ctx, gcsScope)
	if err != nil {
		return nil, fmt.Errorf("%w; run `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS, or add ?anonymous=true for a public bucket", err)
	}
	b.tokens = c.TokenSource
	return b, nil
}

func (b *gcsBucket) close() error { return nil }

func (b *gcsBucket) object(key string) object {
	return &webObject{client: b.client, url: b.host + "/" + b.name + "/" + escapePath(key), authorize: b.authorize, condition: ifGeneration,
		version: func(h http.Header) string { return h.Get("x-goog-generation") }}
}

// ifGeneration asks for a version of the object and no other.
func ifGeneration(h http.Header, version string) { h.Set("x-goog-if-generation-match", version) }

func (b *gcsBucket) authorize(r *http.Request) error {
	if b.tokens == nil {
		return nil
	}
	t, err := b.tokens.Token()
	if err != nil {
		return fmt.Errorf("credentials for Google Cloud Storage: %w", err)
	}
	t.SetAuthHeader(r)
	return nil
}

// gcsPage is what objects.list answers: https://cloud.google.com/storage/docs/json_api/v1/objects/list
type gcsPage struct {
	Items []struct {
		Name       string `json:"name"`
		Size       string `json:"size"`
		Generation string `json:"generation"` // changes with the content
	} `json:"items"`
	NextPageToken string `json:"nextPageToken"`
}

func (b *gcsBucket) list(ctx context.Context, prefix string, token []byte) ([]listed, []byte, error) {
	q := url.Values{"prefix": {prefix}, "fields": {"items(name,size,generation),nextPageToken"}}
	if token != nil {
		q.Set("pageToken", string(token))
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.host+"/storage/v1/b/"+url.PathEscape(b.name)+"/o?"+q.Encode(), nil)
	if err != nil {
		return nil, nil, final(err)
	}
	if err := b.authorize(r); err != nil {
		return nil, nil, err
	}
	resp, err := b.client.Do(r)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, nil, errors.Join(statusOf(resp), drop(resp))
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxListing))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return nil, nil, err
	}
	return parseGCSPage(text)
}

func parseGCSPage(text []byte) ([]listed, []byte, error) {
	var p gcsPage
	if err := json.Unmarshal(text, &p); err != nil {
		return nil, nil, fmt.Errorf("the listing cannot be read: %w", err)
	}
	page := make([]listed, 0, len(p.Items))
	for _, o := range p.Items {
		size, err := strconv.ParseUint(o.Size, 10, 63)
		if err != nil {
			return nil, nil, final(fmt.Errorf("the listing gives %q the size %q", o.Name, o.Size))
		}
		page = append(page, listed{key: o.Name, attributes: attributes{size: int64(size), version: o.Generation}})
	}
	if p.NextPageToken == "" {
		return page, nil, nil
	}
	return page, []byte(p.NextPageToken), nil
}

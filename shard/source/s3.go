package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	gcaws "gocloud.dev/aws"
	"gocloud.dev/blob"
	"gocloud.dev/blob/s3blob"
)

// s3Advice is what most often is missing.
const s3Advice = "credentials and region come from AWS's usual environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_REGION, the machine's role); " +
	"or give ?region=, and ?anonymous=true for a public bucket, or ?endpoint=https://HOST&use_path_style=true for a server of one's own"

// An s3Bucket is a bucket of S3, or of a server that speaks its protocol.
type s3Bucket struct{ b *blob.Bucket }

// openS3 takes the parameters of gocloud.dev's URLs for S3. The client is the Opener's, and tries nothing again by itself.
func openS3(ctx context.Context, client *http.Client, u *url.URL, _ Options) (bucket, error) {
	q := u.Query()
	var options []func(*s3.Options)
	for _, flag := range []struct {
		name string
		set  func(o *s3.Options, v bool)
	}{
		{"use_path_style", func(o *s3.Options, v bool) { o.UsePathStyle = v }},
		{"s3ForcePathStyle", func(o *s3.Options, v bool) { o.UsePathStyle = v }},
		{"accelerate", func(o *s3.Options, v bool) { o.UseAccelerate = v }},
		{"disable_https", func(o *s3.Options, v bool) { o.EndpointOptions.DisableHTTPS = v }},
	} {
		if !q.Has(flag.name) {
			continue
		}
		v, err := strconv.ParseBool(q.Get(flag.name))
		if err != nil {
			return nil, fmt.Errorf("parameter %s: want true or false, got %q", flag.name, q.Get(flag.name))
		}
		q.Del(flag.name)
		options = append(options, func(o *s3.Options) { flag.set(o, v) })
	}
	cfg, err := gcaws.V2ConfigFromURLParams(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("%w; %s", err, s3Advice)
	}
	cfg.HTTPClient = client
	cfg.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
	b, err := s3blob.OpenBucket(ctx, s3.NewFromConfig(cfg, options...), u.Host, nil)
	if err != nil {
		return nil, fmt.Errorf("%w; %s", err, s3Advice)
	}
	return &s3Bucket{b}, nil
}

func (b *s3Bucket) close() error             { return b.b.Close() }
func (b *s3Bucket) object(key string) object { return &s3Object{b: b.b, key: key} }

func (b *s3Bucket) list(ctx context.Context, prefix string, token []byte) ([]listed, []byte, error) {
	if token == nil {
		token = blob.FirstPageToken
	}
	objects, next, err := b.b.ListPage(ctx, token, 1000, &blob.ListOptions{Prefix: prefix})
	if err != nil {
		return nil, nil, s3Error(err)
	}
	page := make([]listed, 0, len(objects))
	for _, o := range objects {
		l := listed{key: o.Key, attributes: attributes{size: o.Size}}
		var raw types.Object
		if o.As(&raw) {
			l.version = aws.ToString(raw.ETag)
		}
		page = append(page, l)
	}
	return page, next, nil
}

// An s3Object is read by ranges, on the condition that it is still what was opened.
type s3Object struct {
	b     *blob.Bucket
	key   string
	known attributes
}

func (o *s3Object) expect(a attributes) { o.known = a }

func (o *s3Object) stat(ctx context.Context) (attributes, error) {
	a, err := o.b.Attributes(ctx, o.key)
	if err != nil {
		return attributes{}, s3Error(err)
	}
	return attributes{size: a.Size, version: a.ETag}, nil
}

func (o *s3Object) get(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	r, err := o.b.NewRangeReader(ctx, o.key, off, n, &blob.ReaderOptions{BeforeRead: func(as func(any) bool) error {
		var in *s3.GetObjectInput
		if o.known.version != "" && as(&in) {
			in.IfMatch = aws.String(o.known.version)
		}
		return nil
	}})
	if err != nil {
		return nil, s3Error(err)
	}
	var out s3.GetObjectOutput
	if r.As(&out) && aws.ToString(out.ETag) != o.known.version {
		return nil, errors.Join(fmt.Errorf("%w (was %s, is %s)", ErrChanged, o.known.version, aws.ToString(out.ETag)), r.Close())
	}
	if r.Size() != o.known.size {
		return nil, errors.Join(fmt.Errorf("%w (had %d bytes, has %d)", ErrChanged, o.known.size, r.Size()), r.Close())
	}
	return r, nil
}

// s3Error gives the library's errors the status they came with.
func s3Error(err error) error {
	var re *awshttp.ResponseError
	if !errors.As(err, &re) {
		return fmt.Errorf("%w; %s", err, s3Advice) // no request was sent: credentials or region are missing
	}
	code := re.HTTPStatusCode()
	switch code {
	case http.StatusPreconditionFailed, http.StatusRequestedRangeNotSatisfiable:
		return fmt.Errorf("%w (%w)", ErrChanged, err)
	case 0, http.StatusOK, http.StatusPartialContent:
		return err // there was no answer, or it broke off
	}
	text := fmt.Sprintf("%d %s (%v)", code, http.StatusText(code), err)
	if code == http.StatusUnauthorized || code == http.StatusForbidden {
		text += "; " + s3Advice
	}
	return &statusError{code: code, text: text}
}

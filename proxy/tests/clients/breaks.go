// Reads responses to their ends, and prints as JSON what each gave and how it ended; see breaks.mjs.
//
//	go run breaks.go URL...
package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
)

type result struct {
	Text  string  `json:"text"`
	Error *string `json:"error"`
}

func main() {
	// The certificate of the test signs itself.
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	client := &http.Client{Transport: transport}
	results := map[string]result{}
	for _, url := range os.Args[1:] {
		text, err := read(client, url)
		one := result{Text: string(text)}
		if err != nil {
			message := err.Error()
			one.Error = &message
		}
		results[url] = one
	}
	printed, _ := json.Marshal(results)
	fmt.Println(string(printed))
}

func read(client *http.Client, url string) ([]byte, error) {
	request, err := http.NewRequest("GET", url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "text/event-stream")
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}

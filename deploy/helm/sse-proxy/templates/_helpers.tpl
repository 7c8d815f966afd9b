{{- define "sse-proxy.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 57 | trimSuffix "-" }}
{{- end }}

{{- /* Six characters are left for `-admin`. */}}
{{- define "sse-proxy.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 57 | trimSuffix "-" }}
{{- else if contains (include "sse-proxy.name" .) .Release.Name }}
{{- .Release.Name | trunc 57 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "sse-proxy.name" .) | trunc 57 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "sse-proxy.selectorLabels" -}}
app.kubernetes.io/name: {{ include "sse-proxy.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sse-proxy.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "sse-proxy.selectorLabels" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "sse-proxy.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{- /* sse-proxy.yaml: what the values say, and what the chart decides. */}}
{{- define "sse-proxy.config" -}}
{{- $config := deepCopy .Values.config }}
{{- $bind := .Values.listeners.bind }}
{{- $listen := list }}
{{- with .Values.listeners.http }}
{{- if .enabled }}
{{- $listen = append $listen (merge (dict "address" (printf "%s:8080" $bind)) (.options | default dict)) }}
{{- end }}
{{- end }}
{{- with .Values.listeners.https }}
{{- if .enabled }}
{{- $tls := dict "cert" "/etc/tls/tls.crt" "key" "/etc/tls/tls.key" "reload" "1m" }}
{{- $listen = append $listen (merge (dict "address" (printf "%s:8443" $bind) "tls" $tls) (.options | default dict)) }}
{{- end }}
{{- end }}
{{- if not $listen }}
{{- fail "no listener: enable listeners.http or listeners.https" }}
{{- end }}
{{- $_ := set $config "listen" $listen }}
{{- $_ := set $config "admin" (dict "address" (printf "%s:9090" $bind)) }}
{{- with .Values.drain }}
{{- $delay := int .readyDelaySeconds }}
{{- $spread := int .spreadSeconds }}
{{- if le (int .timeoutSeconds) (add $delay $spread | int) }}
{{- fail (printf "drain.timeoutSeconds is %d, and has to be longer than readyDelaySeconds and spreadSeconds together, %d" (int .timeoutSeconds) (add $delay $spread)) }}
{{- end }}
{{- $seconds := dict "ready_delay" (printf "%ds" $delay) "spread" (printf "%ds" $spread) "timeout" (printf "%ds" (int .timeoutSeconds)) }}
{{- $_ := set $config "drain" (set $seconds "retry" .retry) }}
{{- end }}
{{- if not (hasKey $config "trusted_proxies") }}
{{- $_ := set $config "trusted_proxies" list }}
{{- end }}
{{- toYaml $config }}
{{- end }}

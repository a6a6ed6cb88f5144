{{- define "bulkhead.name" -}}
{{- if contains "bulkhead" .Release.Name -}}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{- else -}}{{ printf "%s-bulkhead" (.Release.Name | trunc 31 | trimSuffix "-") }}{{- end -}}
{{- end }}

{{/* What the sandboxes of this release are told apart from others by. */}}
{{- define "bulkhead.installation" -}}
{{ printf "%s.%s" .Release.Namespace .Release.Name | trunc 63 | trimAll ".-" }}
{{- end }}

{{- define "bulkhead.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{- end -}}
{{- end -}}
{{- end }}

{{/* Labels that never change, so that nothing is started again for a new version of the chart alone. */}}
{{- define "bulkhead.selector" -}}
app.kubernetes.io/name: bulkhead
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "bulkhead.labels" -}}
{{ include "bulkhead.selector" . }}
app.kubernetes.io/part-of: bulkhead
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* {root, secret}: where a secret is, as a secretKeyRef. */}}
{{- define "bulkhead.secret" -}}
{{- $given := index .root.Values.secrets .secret -}}
{{- if $given.name -}}
{name: {{ $given.name | quote }}, key: {{ $given.key | quote }}}
{{- else if .root.Values.embedded.enabled -}}
{name: {{ include "bulkhead.name" .root }}-embedded, key: {{ $given.key | quote }}}
{{- else -}}
{{- $missing := list -}}
{{- range $name := list "database" "masterKey" "apiKey" "sandboxKey" -}}
{{- $each := index $.root.Values.secrets $name -}}
{{- if not $each.name }}{{ $missing = append $missing (printf "secrets.%s.name (its key: %s)" $name $each.key) }}{{ end -}}
{{- end -}}
{{- fail (printf "not set: %s. Make a secret in the namespace %s and name it, or try Bulkhead out with embedded.enabled=true" (join ", " $missing) .root.Release.Namespace) -}}
{{- end -}}
{{- end }}

{{- define "bulkhead.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "bulkhead.temporal" -}}
{{- if and .Values.embedded.enabled (or .Values.temporal.address .Values.secrets.database.name) -}}
{{- fail "embedded.enabled brings a Postgres and a Temporal of its own: leave temporal.address and secrets.database.name unset, or embedded.enabled" -}}
{{- end -}}
{{- if .Values.temporal.address -}}{{ .Values.temporal.address }}
{{- else if .Values.embedded.enabled -}}{{ include "bulkhead.name" . }}-embedded:7233
{{- else -}}{{ fail "temporal.address is not set: give the host:port of a Temporal frontend, or try Bulkhead out with embedded.enabled=true" }}
{{- end -}}
{{- end }}

{{- define "bulkhead.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "bulkhead.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "bulkhead.jobResources" -}}
requests: {cpu: 10m, memory: 64Mi, ephemeral-storage: 16Mi}
limits: {cpu: "1", memory: 512Mi, ephemeral-storage: 256Mi}
{{- end }}

{{/* What a part is told: {root, part}. Each gets the secrets that it reads, and no other. */}}
{{- define "bulkhead.environment" -}}
{{- $root := .root -}}
{{- $name := include "bulkhead.name" $root -}}
{{- $values := $root.Values -}}
- name: BULKHEAD_LOG_FORMAT
  value: json
- name: BULKHEAD_DATABASE_URL
  valueFrom: {secretKeyRef: {{ include "bulkhead.secret" (dict "root" $root "secret" "database") }}}
{{- if not (has .part (list "gateway" "egress" "slack" "migrate")) }}
- name: BULKHEAD_TEMPORAL_ADDRESS
  value: {{ include "bulkhead.temporal" $root | quote }}
- name: BULKHEAD_TEMPORAL_NAMESPACE
  value: {{ $values.temporal.namespace | quote }}
{{- if ne .part "clear" }}
{{- include "bulkhead.temporalTls" $root }}
{{- end }}
{{- end }}
{{- if not (has .part (list "migrate" "clear")) }}
- name: BULKHEAD_HEALTH_PORT
  value: "8480"
- name: BULKHEAD_DRAIN_SECONDS
  value: {{ $values.drainSeconds | quote }}
{{- end }}
{{- if has .part (list "api" "brain") }}
- name: BULKHEAD_GATEWAY_ADDRESS
  value: {{ $name }}-gateway:8401
{{- end }}
{{- if has .part (list "api" "brain" "sandboxes") }}
- name: BULKHEAD_MEMORY_ADDRESS
  value: {{ $name }}-memory-worker:8402
{{- end }}
{{- if has .part (list "api" "egress" "memory-worker" "slack") }}
- name: BULKHEAD_MASTER_KEY
  valueFrom: {secretKeyRef: {{ include "bulkhead.secret" (dict "root" $root "secret" "masterKey") }}}
{{- end }}
{{- if has .part (list "sandboxes" "egress" "clear") }}
- name: BULKHEAD_WORKER_NAME
  value: {{ include "bulkhead.installation" $root | quote }}
{{- end }}
{{- if and (has .part (list "sandboxes" "egress")) $values.secrets.egressAuthorities.name }}
- name: BULKHEAD_EGRESS_CA_FILE
  value: /etc/bulkhead/authorities/{{ $values.secrets.egressAuthorities.key }}
{{- end }}
{{- if has .part (list "sandboxes" "clear") }}
{{ include "bulkhead.sandboxEnvironment" $root }}
{{- end }}
{{- if eq .part "api" }}
- name: BULKHEAD_HOST
  value: 0.0.0.0
- name: BULKHEAD_PORT
  value: "8400"
{{- else if eq .part "gateway" }}
- name: BULKHEAD_GATEWAY_HOST
  value: 0.0.0.0
- name: BULKHEAD_GATEWAY_PORT
  value: "8401"
{{- with $values.secrets.providers.name }}
{{- range $variable := list "ANTHROPIC_API_KEY" "OPENAI_API_KEY" }}
- name: {{ $variable }}
  valueFrom: {secretKeyRef: {name: {{ $values.secrets.providers.name | quote }}, key: {{ $variable }}, optional: true}}
{{- end }}
{{- end }}
{{- if $values.secrets.providersFile.name }}
- name: BULKHEAD_CONFIG_FILE
  value: /etc/bulkhead/providers/{{ $values.secrets.providersFile.key }}
{{- end }}
{{- else if eq .part "egress" }}
- name: BULKHEAD_EGRESS_GATE_LISTEN
  value: 0.0.0.0:3129
{{- else if eq .part "memory-worker" }}
- name: BULKHEAD_MEMORY_HOST
  value: 0.0.0.0
- name: BULKHEAD_MEMORY_PORT
  value: "8402"
{{- with $values.secrets.embedding }}
{{- if .name }}
- name: BULKHEAD_EMBEDDING_API_KEY
  valueFrom: {secretKeyRef: {name: {{ .name | quote }}, key: {{ .key | quote }}}}
{{- end }}
{{- end }}
{{- else if eq .part "slack" }}
- name: BULKHEAD_URL
  value: http://{{ $name }}-api:{{ $values.api.service.port }}
- name: BULKHEAD_SLACK_HOST
  value: 0.0.0.0
- name: BULKHEAD_SLACK_PORT
  value: "8403"
{{- else if eq .part "migrate" }}
- name: BULKHEAD_API_KEY
  valueFrom: {secretKeyRef: {{ include "bulkhead.secret" (dict "root" $root "secret" "apiKey") }}}
{{- end }}
{{- end }}

{{/* What is shown to Temporal. Its files are where `bulkhead.temporalMounts` has them. */}}
{{- define "bulkhead.temporalTls" }}
{{- with .Values.temporal }}
- name: BULKHEAD_TEMPORAL_TLS
  value: {{ .tls | quote }}
{{- if .serverName }}
- name: BULKHEAD_TEMPORAL_SERVER_NAME
  value: {{ .serverName | quote }}
{{- end }}
{{- end }}
{{- with .Values.secrets.temporalApiKey }}
{{- if .name }}
- name: BULKHEAD_TEMPORAL_API_KEY
  valueFrom: {secretKeyRef: {name: {{ .name | quote }}, key: {{ .key | quote }}}}
{{- end }}
{{- end }}
{{- if .Values.secrets.temporalClient.name }}
- name: BULKHEAD_TEMPORAL_CLIENT_CERT_FILE
  value: /etc/bulkhead/temporal-client/tls.crt
- name: BULKHEAD_TEMPORAL_CLIENT_KEY_FILE
  value: /etc/bulkhead/temporal-client/tls.key
{{- end }}
{{- with .Values.secrets.temporalAuthorities }}
{{- if .name }}
- name: BULKHEAD_TEMPORAL_SERVER_CA_FILE
  value: /etc/bulkhead/temporal-authorities/{{ .key }}
{{- end }}
{{- end }}
{{- end }}

{{- define "bulkhead.temporalMounts" }}
{{- range $folder, $secret := dict "client" .Values.secrets.temporalClient.name "authorities" .Values.secrets.temporalAuthorities.name }}
{{- if $secret }}
- {name: temporal-{{ $folder }}, mountPath: /etc/bulkhead/temporal-{{ $folder }}, readOnly: true}
{{- end }}
{{- end }}
{{- end }}

{{- define "bulkhead.temporalVolumes" }}
{{- range $folder, $secret := dict "client" .Values.secrets.temporalClient.name "authorities" .Values.secrets.temporalAuthorities.name }}
{{- if $secret }}
- name: temporal-{{ $folder }}
  secret: {secretName: {{ $secret | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{- define "bulkhead.sandboxEnvironment" -}}
{{- $values := .Values -}}
- name: BULKHEAD_SANDBOX
  value: kubernetes
- name: BULKHEAD_KUBERNETES_NAMESPACE
  value: {{ $values.sandbox.namespace | quote }}
- name: BULKHEAD_KUBERNETES_RUNTIME_IMAGE
  value: {{ include "bulkhead.image" . | quote }}
- name: BULKHEAD_KUBERNETES_IMAGE
  value: {{ $values.sandbox.image | default (include "bulkhead.image" .) | quote }}
- name: BULKHEAD_KUBERNETES_PULL_POLICY
  value: {{ $values.image.pullPolicy }}
- name: BULKHEAD_KUBERNETES_PULL_SECRETS
  value: {{ join "," $values.sandbox.pullSecrets | quote }}
- name: BULKHEAD_KUBERNETES_RUNTIME_CLASS
  value: {{ $values.sandbox.runtimeClass | quote }}
- name: BULKHEAD_KUBERNETES_NODE_SELECTOR
  {{- $labels := list }}
  {{- range $key, $value := $values.sandbox.nodeSelector }}{{ $labels = append $labels (printf "%s=%s" $key $value) }}{{ end }}
  value: {{ join "," $labels | quote }}
{{- if not (kindIs "invalid" $values.sandbox.hostUsers) }}
- name: BULKHEAD_KUBERNETES_USER_NAMESPACES
  value: {{ not $values.sandbox.hostUsers | quote }}
{{- end }}
- name: BULKHEAD_KUBERNETES_KEY
  valueFrom: {secretKeyRef: {{ include "bulkhead.secret" (dict "root" . "secret" "sandboxKey") }}}
- name: BULKHEAD_KUBERNETES_GATE
  value: {{ include "bulkhead.name" . }}-egress.{{ .Release.Namespace }}:3129
- name: BULKHEAD_KUBERNETES_CANARY
  value: {{ $values.sandbox.canary }}
- name: BULKHEAD_SANDBOX_IDLE_SECONDS
  value: {{ int64 $values.sandbox.idleSeconds | quote }}
- name: BULKHEAD_WARM_SANDBOXES
  value: {{ $values.sandbox.warm | quote }}
{{- end }}

{{/* What may be set for a part beside it: {root, part, settings}. A name that looks like a secret's is refused. */}}
{{- define "bulkhead.settings" -}}
{{- $told := include "bulkhead.environment" . }}
{{- range $variable, $value := mergeOverwrite dict .root.Values.settings (.settings | default dict) }}
{{- if regexMatch (printf "name: %s\\s" $variable) $told }}
{{- fail (printf "settings.%s is what other values say: leave it out, and see `helm show values`" $variable) }}
{{- end }}
{{- if regexMatch "(_KEY|_SECRET|_TOKEN|PASSWORD|DATABASE_URL)$" $variable }}
{{- fail (printf "settings.%s would put a secret into the chart's values: make a secret and name it under `secrets`" $variable) }}
{{- end }}
- name: {{ $variable }}
  {{- /* A number of a values file is a float64, which a million would be 1e+06 of. */}}
  value: {{ ternary (int64 $value) $value (and (kindIs "float64" $value) (eq (toString (floor $value)) (toString $value))) | quote }}
{{- end }}
{{- end }}

{{/* Every part by name: its values, its command, what it listens on beside its health port. */}}
{{- define "bulkhead.parts" -}}
api: {values: api, command: [bulkhead, api], ports: {http: 8400}}
gateway: {values: gateway, command: [bulkhead, gateway], ports: {http: 8401}}
brain: {values: brain, command: [bulkhead, brain]}
sandboxes: {values: sandboxes, command: [bulkhead, sandboxes]}
egress: {values: egress, command: [bulkhead, egress], ports: {gate: 3129}}
memory-worker: {values: memoryWorker, command: [bulkhead, memory-worker], ports: {http: 8402}}
{{- if .Values.slack.enabled }}
slack:
  values: slack
  command: [bulkhead, slack]
  {{- if .Values.slack.http }}
  ports: {http: 8403}
  {{- end }}
{{- end }}
{{- end }}

{{/* The init container that brings the schema up to date where no hook can: {root}. */}}
{{- define "bulkhead.migrateContainer" -}}
name: migrate
image: {{ include "bulkhead.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
command: [bulkhead, migrate]
env:
  {{- include "bulkhead.environment" (dict "root" .root "part" "migrate") | nindent 2 }}
securityContext:
  {{- include "bulkhead.containerSecurity" .root | nindent 2 }}
resources:
  {{- include "bulkhead.jobResources" .root | nindent 2 }}
volumeMounts:
  - {name: data, mountPath: /var/lib/bulkhead}
  - {name: tmp, mountPath: /tmp}
{{- end }}

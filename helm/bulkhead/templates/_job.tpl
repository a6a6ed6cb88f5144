{{/* A job of the chart: {root, part, hook, weight, command, account, token, settings}. */}}
{{- define "bulkhead.job" -}}
{{- $labelled := dict "root" .root "part" .part }}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ include "bulkhead.name" .root }}-{{ .part }}
  labels:
    {{- include "bulkhead.labels" $labelled | nindent 4 }}
  annotations:
    helm.sh/hook: {{ .hook }}
    helm.sh/hook-weight: {{ .weight | quote }}
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  backoffLimit: 1 # helm waits five minutes: what it says is to be seen before
  activeDeadlineSeconds: 600
  ttlSecondsAfterFinished: 3600
  template:
    metadata:
      labels:
        {{- include "bulkhead.selector" $labelled | nindent 8 }}
        app.kubernetes.io/part-of: bulkhead
    spec:
      restartPolicy: Never
      serviceAccountName: {{ .account }}
      automountServiceAccountToken: {{ .token }}
      enableServiceLinks: false
      securityContext:
        {{- include "bulkhead.podSecurity" .root | nindent 8 }}
      {{- include "bulkhead.pullSecrets" .root | indent 6 }}
      containers:
        - name: {{ .part }}
          image: {{ include "bulkhead.image" .root | quote }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command: {{ toJson .command }}
          env:
            {{- include "bulkhead.environment" $labelled | nindent 12 }}
            {{- include "bulkhead.settings" (merge (dict "settings" .settings) $labelled) | nindent 12 }}
          resources:
            {{- include "bulkhead.jobResources" .root | nindent 12 }}
          securityContext:
            {{- include "bulkhead.containerSecurity" .root | nindent 12 }}
          volumeMounts:
            - {name: data, mountPath: /var/lib/bulkhead}
            - {name: tmp, mountPath: /tmp}
      volumes:
        - name: data
          emptyDir: {sizeLimit: 128Mi}
        - name: tmp
          emptyDir: {sizeLimit: 128Mi}
{{- end }}

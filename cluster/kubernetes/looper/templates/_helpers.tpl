{{/* Labels of everything, and those by which pods are selected. */}}
{{- define "looper.selectorLabels" -}}
app.kubernetes.io/name: looper
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "looper.labels" -}}
{{ include "looper.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "looper.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary .Release.Name "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "looper.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Settings as looper.yaml has them: the arguments of the builder, and the file of commands in pods. */}}
{{- define "looper.settings" -}}
{{- $store := dict "url" (required "store.url is not set: give the bucket, s3://BUCKET/PREFIX" .Values.store.url) -}}
{{- with .Values.store.endpointUrl }}{{ $_ := set $store "endpoint_url" . }}{{ end -}}
{{- $roles := dict -}}
{{- range .Values.groups }}{{ range .roles }}{{ $_ := set $roles . (printf "looper_%s" .) }}{{ end }}{{ end -}}
{{- range list "gateways" "control" "engines" "trainers" "data" -}}
{{- if not (hasKey $roles .) }}{{ fail (printf "no group has the role %s: add it to the roles of a group" .) }}{{ end -}}
{{- end -}}
{{- mergeOverwrite (deepCopy .Values.settings) (dict "store" $store "roles" $roles) | toYaml }}
{{- end }}

{{/* Variables that Ray's processes need on every node before Ray starts there: serve/deployment/ray_environment.py. */}}
{{- define "looper.rayEnvironment" -}}
- {name: RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH, value: looper.serve.deployment.proxy_errors.proxy_middlewares}
- {name: RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S, value: "2"}
- {name: RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S, value: "30"}
- {name: RAY_SERVE_USE_GRPC_BY_DEFAULT, value: "1"}
- {name: RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD, value: "0"}
- {name: RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP, value: "0"}
- {name: RAY_worker_niceness, value: "0"}
{{- end }}

{{- define "looper.secretVariable" -}}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef: {name: {{ .secret | quote }}, key: {{ .key | quote }}}
{{- end }}

{{- define "looper.env" -}}
{{ include "looper.rayEnvironment" . }}
- {name: HOME, value: /var/lib/looper}
- {name: LOOPER_HOME, value: /var/lib/looper}
- {name: XDG_CACHE_HOME, value: /var/lib/looper/cache}
{{ include "looper.secretVariable" (dict "variable" "LOOPER_CATALOG__URL" "secret" .Values.catalog.secretName "key" .Values.catalog.secretKey) }}
{{- with .Values.store.secretName }}
{{ include "looper.secretVariable" (dict "variable" "AWS_ACCESS_KEY_ID" "secret" . "key" "AWS_ACCESS_KEY_ID") }}
{{ include "looper.secretVariable" (dict "variable" "AWS_SECRET_ACCESS_KEY" "secret" . "key" "AWS_SECRET_ACCESS_KEY") }}
{{- end }}
{{- with .Values.hub.secretName }}
{{ include "looper.secretVariable" (dict "variable" "HF_TOKEN" "secret" . "key" $.Values.hub.secretKey) }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What pods of the head, of groups and of jobs share. Arguments: root, node (a group, the head or a job). */}}
{{- define "looper.podSpec" -}}
enableServiceLinks: false        # as variables, Services named looper-... would look like settings
serviceAccountName: {{ include "looper.serviceAccountName" .root }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
securityContext: {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .node.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .node.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .node.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .node.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: tmp
    emptyDir: {}
  - name: shm
    emptyDir: {medium: Memory, sizeLimit: {{ .node.shmSize | default .root.Values.groupDefaults.shmSize | quote }}}
  - name: looper
    {{- if .node.cacheVolume }}
    {{- toYaml .node.cacheVolume | nindent 4 }}
    {{- else }}
    emptyDir: {sizeLimit: {{ .node.cacheSize | default .root.Values.groupDefaults.cacheSize | quote }}}
    {{- end }}
  - name: settings
    configMap: {name: {{ .root.Release.Name }}-settings}
{{- end }}

{{/* The fields of Ray's container that pods share. */}}
{{- define "looper.container" -}}
image: {{ include "looper.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext: {{- toYaml .root.Values.containerSecurityContext | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: shm, mountPath: /dev/shm}
  - {name: looper, mountPath: /var/lib/looper}
  - {name: settings, mountPath: /etc/looper, readOnly: true}
{{- end }}

{{/* The part of a RayCluster that the RayService and jobs share. */}}
{{- define "looper.rayAuth" -}}
{{- if .Values.rayAuth.enabled -}}
authOptions: {mode: token}
{{- end }}
{{- end }}

{{/* Resources of a group for `ray start`: its roles, and its type of GPUs, which scaling from zero must know. */}}
{{- define "looper.rayResources" -}}
{{- $resources := dict -}}
{{- range .roles }}{{ $_ := set $resources (printf "looper_%s" .) 1000 }}{{ end -}}
{{- with .acceleratorType }}{{ $_ := set $resources (printf "accelerator_type:%s" .) 1 }}{{ end -}}
{{- $resources | toJson | quote }}
{{- end }}
